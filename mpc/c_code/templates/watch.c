/* Monitoring of premises, as mpc/safety/premise_watch.py and mpc/observers/straying.py; s->now has the bits of the
   contradicted ones by the header's enum. */

/* Whether the certified error of the present estimate holds. */
static int is_certified(const State *s)
{
    return CERTIFIED && s->seen >= STEPS && s->bound <= BOUND_PROMISED && (OBSERVER != WASHOUT || s->clean >= STEPS);
}

/* |a - b| in a metric. */
static double distance(const double *a, const double *b, const double *in)
{
    double square = 0;
    for (int i = 0; i < NX; ++i) {
        double row = 0;
        for (int k = 0; k < NX; ++k) row += in[i * NX + k] * (a[k] - b[k]);
        square += (a[i] - b[i]) * row;
    }
    return sqrt(fmax(square, 0));
}

#if OBSERVER != WASHOUT
/* Bound on the model's own state's distance from x, whatever the last inputs were. */
static double anywhere(const State *s, const double *x)
{
    return distance(x, initial_state, metric) * ROUNDING + REACH + s->excess;
}
#endif

/* Start from anywhere the model's state may be. */
static void resume(State *s)
{
    const double away = REACH + s->excess;
    s->bound = s->beside_bound = away;
    s->astray = s->excess > 0;
    s->clean = s->astray ? 0 : STEPS;
    s->away = away;
    memcpy(s->z, initial_state, sizeof s->z);
#if OBSERVER == INNOVATION
    s->bound = TO_OWN * away;
    s->estranged = 0;
#endif
}

/* An input that acted, of which no update is told, or for any number of samples. */
static void led_astray(State *s, const double *u, int held)
{
    double pushed = 0;
    for (int j = 0; j < NU; ++j) {
        const double out = fmax(fmax(u[j] - range_end[NU + j], range_end[j] - u[j]), 0);
        if (out > range_room[j]) pushed += input_gain[j] * out;
    }
    s->excess += held ? pushed / (1 - RATE) : pushed;
}

/* An input cut to the range where no actuator can have done what is said; whether it was cut. */
static int cut(const double *u, double *possible)
{
    int wrong = 0;
    for (int j = 0; j < NU; ++j) {
        const double far = ${ABSURD} * span[j];
        possible[j] = u[j];
        if (u[j] >= range_low[j] - far && u[j] <= range_high[j] + far) continue;
        possible[j] = clip(u[j], range_low[j], range_high[j]);
        wrong = 1;
    }
    return wrong;
}

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

#if MOVES
/* Count inputs in a row between which all moves were slow, as mpc/safety/move_watch.py; again: the last is replaced. */
static void count_slow(State *s, const double *u, int unknown, int again)
{
    int on;
    if (!again) {
        memcpy(s->slow_from, s->slow_last, sizeof s->slow_from);
        s->slow_before = s->slow;
    }
    on = s->slow_before > 0;
    for (int j = 0; j < NU; ++j) {
        const double room = calibrated_moves[j] + LAST_PLACES * fmax(fabs(s->slow_from[j]), fabs(u[j]));
        on = on && fabs(u[j] - s->slow_from[j]) <= room;
    }
    s->slow = unknown ? 0 : on ? s->slow_before + 1 : 1;
    if (s->slow > MOVES + 1) s->slow = MOVES + 1;
    memcpy(s->slow_last, u, sizeof s->slow_last);
}

/* Whether inputs have moved slowly for long enough. */
static int moved_slowly(const State *s)
{
    return s->slow >= MOVES;
}

/* A disturbance estimate that enters limits starts anew once they have: it has learnt of errors that are not calibrated. */
static void forget_fast(State *s)
{
    if (!PRACTICAL || s->slow != MOVES) return;
    memset(s->disturbance, 0, sizeof s->disturbance);
    s->has_disturbance = 0;
}
#else
#define forget_fast(s) (void)0
#define count_slow(s, u, unknown, again) (void)0
#define moved_slowly(s) 1
#endif

#if COVERAGE
/* Count a sample, as mpc/safety/coverage_watch.py: readings that are missing are unseen, not inside. */
static void count_coverage(State *s, const double *used, const double *after)
{
    double share, factor;
    int seen = 0;
    const int promised = LIMITS_COUNTED || moved_slowly(s); /* of predictions after large moves nothing is */
    for (int i = 0; promised && i < NM; ++i) {
        const double looked = LIMITS_COUNTED ? used[i] : after[i];
        seen += isfinite(used[i]);
        s->stretch_outside |= looked < counted_low[i] || looked > counted_high[i]; /* false for missing readings */
    }
    s->stretch_seen += seen / (double)NM;
    if (++s->stretch_steps >= STRETCH) {
        share = s->stretch_seen / s->stretch_steps;
        factor = 1 + share * ((s->stretch_outside ? FACTOR_OUTSIDE : FACTOR_INSIDE) - 1);
        s->evidence = fmin(fmax(s->evidence, 1) * factor, 10 * PATIENCE);
        if (seen || s->stretch_seen > 0) {
            ++s->stretches;
            s->missed += s->stretch_outside;
        } else ++s->unseen;
        s->stretch_steps = s->stretch_outside = 0;
        s->stretch_seen = 0;
    }
    if (s->evidence >= PATIENCE) s->now |= ${NAME}_BROKEN_COVERAGE;
}
#endif

/* Remove implausible readings: `seen` for the observer, `used` for everything else, NaN where missing or rejected. */
static void believe(State *s, const double *before, const double *y, double *seen, double *used)
{
    double error[NY], after[NM];
    int complete = 1;
    forget_fast(s);
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
        if (s->estranged) s->now |= ${NAME}_BROKEN_INNOVATION;
        if (CERTIFIED && isfinite(seen[i]) && fabs(error[i]) > reading_kept[i] * s->bound + reading_added[i]) {
            s->now |= ${NAME}_BROKEN_INNOVATION;
            if (reactions[INNOVATION_AT] == IGNORE) used[i] = NAN;
        }
#endif
    }
    for (int i = 0; i < NM; ++i) complete = complete && isfinite(used[i]);
    for (int i = 0; i < NM; ++i) {
        after[i] = isnan(used[i]) ? NAN : error[i];
        if (PRACTICAL && (s->has_disturbance || complete))
            after[i] -= s->has_disturbance ? s->disturbance[i] + DISTURBANCE_GAIN * (after[i] - s->disturbance[i])
                                           : after[i];
    }
#if COVERAGE
    if (s->seen >= STEPS) count_coverage(s, used, after);
#endif
    for (int i = 0; is_certified(s) && i < NM; ++i) {
        if (!(fabs(after[i]) > reading_bound[i])) continue;
        s->now |= ${NAME}_BROKEN_MODEL_ERROR;
        if (reactions[MODEL_ERROR_AT] == IGNORE) used[i] = NAN;
    }
}

#if REGION
/* Check that an input and its move are in the box of the calibration. */
static void watch_region_input(State *s, const double *u)
{
    int out = 0;
    for (int j = 0; j < NU; ++j) {
        out |= fabs(u[j] - region_middle[j]) > region_half[j];
        out |= s->has_moved_from && fabs(u[j] - s->moved_from[j] - region_middle[NU + j]) > region_half[NU + j];
    }
    if (out) s->now |= ${NAME}_BROKEN_REGION;
}

/* Check that input, move and residual are in the box of the calibration. */
static void watch_region(State *s, const double *u, const double *y)
{
    double error[NY];
    int out = 0;
    ${name}_model_output(s->x, s->has_previous ? s->previous : safe_input, error);
    for (int i = 0; i < NM; ++i) out |= fabs(y[i] - error[i] - region_middle[2 * NU + i]) > region_half[2 * NU + i];
    if (out) s->now |= ${NAME}_BROKEN_REGION;
    memcpy(s->moved_from, s->previous, sizeof s->moved_from);
    s->has_moved_from = s->has_previous;
    watch_region_input(s, u);
}
#endif

#if RANGES
/* Check that the arguments of laws are in their declared ranges at a state, under the input that acts from there on, as
   mpc/safety/range_watch.py; whether one is not. */
static int leaves_ranges(State *s, const double *x, const double *u)
{
    double point[NZ], v[RANGES];
    int out = 0;
    neurons(x, u, point);
    affine(RANGES, NZ, range_matrix, range_bias, point, v);
    for (int i = 0; i < RANGES; ++i) out |= !(v[i] >= range_least[i] && v[i] <= range_most[i]);
    if (out) s->now |= ${NAME}_BROKEN_RANGES;
    return out;
}
#endif

/* Follow how far inputs outside of the range may have led the model's state astray; whether bounds have to start anew. */
static int stray(State *s, const double *u, int doubted)
{
    double over = 0, after;
    int lost = doubted;
    if (!CERTIFIED) return 0;
    for (int j = 0; j < NU; ++j) {
        const double out = fmax(fmax(u[j] - range_end[NU + j], range_end[j] - u[j]), 0);
        if (out <= range_room[j]) continue;
        over += input_gain[j] * out;
        lost = 1;
    }
    after = (RATE * s->excess + over) * ROUNDING;
    if (doubted) after = fmax(after, s->excess);
    s->excess = after <= FORGOTTEN * REACH ? 0 : after;
    return lost;
}

#if OBSERVER == WASHOUT
static void follow_astray(State *s, const double *u, int lost)
{
    if (lost || s->astray) s->clean = 0;
    else if (s->clean < STEPS) ++s->clean;
    if (lost) {
        resume(s);
        s->clean = 0;
    } else if (s->astray) {
        ${name}_model_step(s->z, u, s->z);
        s->away = (RATE * s->away + MODEL_ADDED) * ROUNDING;
        s->astray = s->excess > 0 && distance(s->z, initial_state, metric) * ROUNDING + s->away > REACH;
    }
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
