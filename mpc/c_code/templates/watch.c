/* Monitoring of premises, as mpc/safety/premise_watch.py and mpc/observers/straying.py; s->now has the bits of the
   contradicted ones by the header's enum. */

/* Whether the certified error of the present estimate holds. */
static int is_certified(const State *s)
{
    return CERTIFIED && s->seen >= STEPS && s->bound <= BOUND_PROMISED && (OBSERVER != WASHOUT || s->clean >= STEPS);
}

/* Check that an input is within the actuators' range. */
static void watch_inputs(State *s, const double *u)
{
    for (int j = 0; j < NU; ++j)
        if (u[j] < range_low[j] || u[j] > range_high[j]) s->now |= ${NAME}_BROKEN_INPUTS;
}

/* Strongest reaction to the present and lasting contradictions. */
static int reaction_of(const State *s)
{
    const int every = s->now | s->lasting | s->reacting;
    int found = REPORT;
    for (int p = 0; every && p < PREMISES; ++p)
        if (every >> p & 1 && reactions[p] > found) found = reactions[p];
    return found;
}

/* Remove implausible readings: `seen` for the observer, `used` for everything else, NaN where missing or rejected. */
static void believe(State *s, const double *before, const double *y, double *seen, double *used)
{
    double error[NY];
    ${name}_model_output(s->x, before, error);
    for (int i = 0; i < NM; ++i) {
        seen[i] = isfinite(y[i]) ? y[i] : NAN;
        error[i] = seen[i] - error[i];
        if (fabs(error[i]) > absurd[i]) { /* false for missing readings */
            s->now |= ${NAME}_BROKEN_READINGS;
            seen[i] = NAN;
        }
        used[i] = seen[i];
#if OBSERVER == INNOVATION
        if (CERTIFIED && isfinite(seen[i]) && fabs(error[i]) > reading_kept[i] * s->bound + reading_added[i]) {
            s->now |= ${NAME}_BROKEN_INNOVATION;
            if (reactions[INNOVATION_AT] == IGNORE) used[i] = NAN;
        }
#endif
    }
    if (is_certified(s)) {
        int complete = 1;
        for (int i = 0; i < NM; ++i) complete = complete && isfinite(used[i]);
        for (int i = 0; i < NM; ++i) {
            double after = isnan(used[i]) ? NAN : error[i];
            if (PRACTICAL && (s->has_disturbance || complete))
                after -= s->has_disturbance ? s->disturbance[i] + DISTURBANCE_GAIN * (after - s->disturbance[i]) : after;
            if (!(fabs(after) > reading_bound[i])) continue;
            s->now |= ${NAME}_BROKEN_MODEL_ERROR;
            if (reactions[MODEL_ERROR_AT] == IGNORE) used[i] = NAN;
        }
    }
}

#if REGION
/* Check that input, move and residual are in the box of the calibration. */
static void watch_region(State *s, const double *u, const double *y)
{
    double error[NY];
    int out = 0;
    ${name}_model_output(s->x, s->has_previous ? s->previous : safe_input, error);
    for (int j = 0; j < NU; ++j) {
        out |= fabs(u[j] - region_middle[j]) > region_half[j];
        out |= s->has_watched && fabs(u[j] - s->watched[j] - region_middle[NU + j]) > region_half[NU + j];
    }
    for (int i = 0; i < NM; ++i) out |= fabs(y[i] - error[i] - region_middle[2 * NU + i]) > region_half[2 * NU + i];
    if (out) s->now |= ${NAME}_BROKEN_REGION;
    memcpy(s->watched, u, sizeof s->watched);
    s->has_watched = 1;
}
#endif

#if OBSERVER == WASHOUT
/* Bound the model's state after inputs outside the range, until it is back in its ball. */
static void stray(State *s, const double *u, int doubted)
{
    double out[NU], far = 0, off = 0, over = 0;
    int any = 0;
    if (!CERTIFIED) return;
    s->clean = s->clean < STEPS ? s->clean + 1 : STEPS;
    for (int j = 0; j < NU; ++j) {
        out[j] = fmax(fmax(u[j] - range_end[NU + j], range_end[j] - u[j]), 0);
        if (out[j] <= range_room[j]) out[j] = 0;
        any = any || out[j] > 0;
        over += input_gain[j] * out[j];
        off += input_gain[j] * (input_error[j] + (doubted ? span[j] : 0));
    }
    if (any || doubted || s->astray) s->clean = 0;
    if (!s->astray && !any) return;
    if (!s->astray) {
        memcpy(s->z, initial_state, sizeof s->z);
        s->away = REACH;
        s->excess = 0;
    }
    ${name}_model_step(s->z, u, s->z);
    s->away = (RATE * s->away + off) * ROUNDING;
    s->excess = (RATE * s->excess + over) * ROUNDING;
    for (int i = 0; i < NX; ++i)
        for (int k = 0; k < NX; ++k)
            far += (s->z[i] - initial_state[i]) * metric[i * NX + k] * (s->z[k] - initial_state[k]);
    s->astray = any || !(sqrt(fmax(far, 0)) * ROUNDING + s->away <= REACH || s->excess <= FORGOTTEN * REACH);
}
#endif

/* End a sample: drop the contradictions that no longer affect the estimate, by its certified error. */
static void finish(State *s, int told)
{
    const int every = s->now | s->lasting;
    s->reacting = s->now;
    s->lasting = told && (is_certified(s) || !CERTIFIED) ? 0 : every;
    s->now = 0;
}
