/* One control step: state and disturbance estimation, solve, fallbacks; as mpc/control/controller.py. */

/* Update the filter d += gain (e - d) of the output disturbance, which starts at a complete measurement, and the error
   intervals where limits learn from measurements. */
static void learn(State *s, const double *y, const double *seen)
{
    double error[NY], told[NY];
    int complete = 1;
    correct_level(s, before_of(s));
    ${name}_model_output(s->x, before_of(s), error);
    for (int i = 0; i < NM; ++i) {
        told[i] = seen[i] - error[i]; /* also a reading that is not used may contradict the intervals */
        error[i] = y[i] - error[i];
        complete = complete && isfinite(error[i]);
    }
#if ERROR_MEMORY
    see_errors(s, told, is_certified(s));
#else
    (void)told;
#endif
    if (!s->has_disturbance && !complete) return;
    for (int i = 0; i < NM; ++i) {
        if (!isfinite(error[i])) continue;
        s->disturbance[i] += (s->has_disturbance ? DISTURBANCE_GAIN : 1) * (error[i] - s->disturbance[i]);
    }
    s->has_disturbance = 1;
}

/* Update the observer's estimate for the next sample. */
static void observe(State *s, const double *y, const double *u, int doubted)
{
#if OBSERVER == WASHOUT
    follow_astray(s, u, stray(s, u, doubted));
    /* A ring of inputs; the model runs over them from the initial state at every sample. */
    const int kept = s->seen < STEPS ? s->seen + 1 : STEPS;
    (void)y;
    memcpy(s->record + (s->seen % STEPS) * NU, u, NU * sizeof *u);
#ifdef WASHOUT_START /* of loops in which an adversary chooses it */
    if (kept < STEPS) return; /* nobody may use it yet */
    memcpy(s->x, WASHOUT_START, sizeof s->x);
#else
    memcpy(s->x, initial_state, sizeof s->x);
#endif
    for (int k = 0; k < kept; ++k)
        ${name}_model_step(s->x, s->record + ((s->seen + 1 - kept + k) % STEPS) * NU, s->x);
#elif OBSERVER == INNOVATION
    double expected[NY], far, apart;
    const int lost = stray(s, u, doubted);
    int complete = 1;
    s->beside_bound = lost ? anywhere(s, s->beside) : RATE * s->beside_bound + MODEL_ADDED;
    ${name}_model_output(s->x, u, expected);
    ${name}_model_step(s->x, u, s->x);
    for (int i = 0; i < NM; ++i) complete = complete && isfinite(y[i]);
    s->impossible = 0;
    for (int i = 0; CERTIFIED && i < NM; ++i) /* comparisons with what is missing are false */
        s->impossible += isfinite(y[i]) && fabs(y[i] - expected[i]) > reading_kept[i] * s->bound + reading_added[i];
    complete = complete && !s->impossible;
    for (int i = 0; complete && i < NX; ++i)
        for (int j = 0; j < NM; ++j) s->x[i] += observer_gain[i * NM + j] * (y[j] - expected[j]);
    s->bound = complete ? bound_kept * s->bound + bound_added : bound_kept_in_gap * s->bound + bound_added_in_gap;
    if (lost) s->bound = TO_OWN * anywhere(s, s->x);
    far = distance(s->x, s->beside, own_metric);
    apart = TO_OWN * s->beside_bound;
    s->estranged = CERTIFIED && far > (s->bound + apart) * ROUNDING;
    if (s->estranged) s->bound = (far + apart) * ROUNDING;
#else
    const int lost = stray(s, u, doubted);
    (void)y;
    ${name}_model_step(s->x, u, s->x);
    s->bound = lost ? anywhere(s, s->x) : RATE * s->bound + MODEL_ADDED;
#endif
}

/* Update observer and parallel model with a sample and its input; doubted: the input is not known. */
static void take_in(State *s, const double *y, const double *u, int doubted)
{
    if (FORGETS) ${name}_model_step(s->beside, u, s->beside);
    observe(s, y, u, doubted);
    memcpy(s->previous, u, sizeof s->previous);
    s->has_previous = 1;
    /* Beyond the warm-up only the place in the ring counts. */
    s->seen = s->seen + 1 < 2 * STEPS ? s->seen + 1 : STEPS;
}

/* Save a variable, or put it back. */
static void keep(void *present, void *saved, size_t size, int back)
{
    if (back) memcpy(present, saved, size);
    else memcpy(saved, present, size);
}

/* Save all that an update replaces, or put it back. */
static void keep_estimate(State *s, int back)
{
    keep(s->x, s->undo_x, sizeof s->x, back);
    keep(s->beside, s->undo_beside, sizeof s->beside, back);
    keep(s->z, s->undo_z, sizeof s->z, back);
    keep(&s->bound, &s->undo_bound, sizeof s->bound, back);
    keep(&s->beside_bound, &s->undo_beside_bound, sizeof s->beside_bound, back);
    keep(&s->estranged, &s->undo_estranged, sizeof s->estranged, back);
    keep(&s->away, &s->undo_away, sizeof s->away, back);
    keep(&s->excess, &s->undo_excess, sizeof s->excess, back);
    keep(&s->astray, &s->undo_astray, sizeof s->astray, back);
    keep(&s->clean, &s->undo_clean, sizeof s->clean, back);
    keep(&s->seen, &s->undo_seen, sizeof s->seen, back);
}

/* Take in a sample, after saving what `revise` needs to repeat it. */
static void advance(State *s, const double *y, const double *u, int doubted)
{
#if ERROR_MEMORY
    const int before = is_certified(s) && moved_slowly(s);
#endif
    count_slow(s, u, doubted || s->doubted, 0);
#if REGION
    s->region_checked = s->seen >= STEPS;
    if (s->region_checked) watch_region(s, u, y);
#endif
#if RANGES
    if (leaves_ranges(s, s->x, u)) doubted = 1; /* also while warming up: the window holds these samples */
#endif
    s->can_undo = 1;
    doubted = doubted || s->doubted;
    s->doubted = 0;
    memcpy(s->undo_y, y, NM * sizeof *y);
    keep_estimate(s, 0);
    take_in(s, y, u, doubted);
    if (s->age < N) ++s->age;
#if ERROR_MEMORY
    /* Intervals carry over only from one certified estimate to the next. */
    if (before && is_certified(s) && moved_slowly(s)) shift_errors(s);
    else forget_errors(s);
#endif
}

/* Repeat the last update with the input that acted. */
static void revise(State *s, const double *acted, int doubted)
{
    int wrong = 0;
#if REGION
    int other = 0;
#endif
    for (int j = 0; j < NU; ++j) wrong |= fabs(acted[j] - s->previous[j]) > command_error[j] + 1e-9 * span[j];
    if (wrong) s->now |= ${NAME}_BROKEN_ACTUATORS;
    doubted = doubted || wrong; /* it did something else, or the read-back is wrong */
    count_slow(s, acted, doubted, 1);
    watch_inputs(s, acted);
#if REGION
    for (int j = 0; j < NU; ++j) other |= acted[j] != s->previous[j];
    if (s->region_checked && other) watch_region_input(s, acted);
#endif
    if (!s->can_undo) { /* there is no update to repeat */
        s->now |= ${NAME}_BROKEN_ACTUATORS;
        led_astray(s, acted, 0);
        s->doubted = 1;
        memcpy(s->previous, acted, sizeof s->previous);
        return;
    }
    keep_estimate(s, 1);
#if RANGES
    if (leaves_ranges(s, s->x, acted)) doubted = 1;
#endif
    take_in(s, s->undo_y, acted, doubted);
#if ERROR_MEMORY
    if (doubted) forget_errors(s);
#endif
}

/* Update for the input that acted since the last sample (null: the command), and for missed samples (time: NaN where
   unknown). */
static void catch_up(State *s, const double *applied, double time)
{
    double acted[NU], nothing[NM];
    int missed = 0, due = 1, other = 0, absurd;
    if (s->has_time && isfinite(time)) {
        const double passed = (time - s->time) / ${NAME}_DT;
        missed = passed < 1e6 ? (int)(fmax(passed, 1) + 0.5) - 1 : 1000000;
        due = fabs(passed - 1) <= JITTER;
        if (!due) s->now |= ${NAME}_BROKEN_TIME;
    }
    s->time = isfinite(time) ? time : s->time + ${NAME}_DT; /* without a stamp it came when it was due */
    s->has_time |= isfinite(time);
    if (!s->has_previous) return;
    for (int j = 0; j < NU; ++j) {
        acted[j] = applied && isfinite(applied[j]) ? applied[j] : s->previous[j];
        other |= acted[j] != s->previous[j];
    }
    absurd = cut(acted, acted);
    if (absurd) s->now |= ${NAME}_BROKEN_INPUTS;
    if (other || absurd || !due) revise(s, acted, absurd || !due);
    if (missed >= MOST_MISSED) { /* the observer starts anew */
        led_astray(s, acted, 1);
        count_slow(s, acted, 1, 1);
        ${name}_clear_estimate(s);
        return;
    }
    for (int i = 0; i < NM; ++i) nothing[i] = NAN;
    for (int k = 0; k < missed; ++k) advance(s, nothing, acted, 1);
}

/* Scale the sample for the solver: reference (N + 1, NM) less disturbance and level correction; limits less the error
   intervals where they learn from measurements, and in practical mode less the disturbance, and less the level
   correction as well where the tightening promises nothing. */
static void scale_sample(State *s, const double *reference, const double *offset)
{
    for (int j = 0; j < NU; ++j) s->before[j] = (before_of(s)[j] - middle[j]) / half[j];
    for (int k = 0; k <= N; ++k) {
        for (int i = 0; i < NY; ++i)
            s->reference[k * NY + i] =
                (reference[k * NM + i % NM] - offset[i % NM] - s->level[k * NM + i % NM]) / scale[i];
        for (int l = 0; k >= FIRST && l < LIMITED; ++l) {
            const int i = limited[l], m = i % NM, row = (k - FIRST) * LIMITED + l;
            const double shift = PRACTICAL ? offset[m] + (PROMISES ? 0 : s->level[k * NM + m]) : 0;
            double low = s->wide ? wide_low[k * NY + i] : output_low[k * NY + i];
            double high = s->wide ? wide_high[k * NY + i] : output_high[k * NY + i];
#if ERROR_MEMORY
            if (k < LEARNING && i < NM) {
                low -= s->error_low[k * NM + i];
                high -= s->error_high[k * NM + i];
            }
#endif
            s->low[row] = (low - shift) / scale[i] + INSIDE;
            s->high[row] = (high - shift) / scale[i] - INSIDE;
        }
    }
}

/* What a simulated loop wants to know of a step besides its info, and whether that step's solver runs out of time. */
typedef struct {
    int late, now;
    double plan[PLANNED * NU], slack, low[${NAME}_ERRORS], high[${NAME}_ERRORS];
} Told;

/* Largest violation of an output limit by a trial, in output units. */
static double largest_slack(const Trial *trial)
{
    double most = 0;
    for (int row = 0; row < LIMIT_ROWS; ++row)
        most = larger((trial->excess[row] - INSIDE) * scale[output_of(row)], most);
    return most;
}

/* Solve the sample. Returns 1 and stores the plan if there is one to apply; otherwise u (M, NU) is the solver's last
   iterate. */
static int plan_ahead(State *s, const double *reference, const double *offset, double *u, Info *info, Told *told)
{
    const Trial *answer;
    int now, feasible, kept;
    scale_sample(s, reference, offset);
    for (int k = 0; k < M; ++k) memcpy(u + k * NU, s->has_plan ? planned(s, k) : before_of(s), NU * sizeof *u);
    if (told && told->late) { /* out of time before the first iteration */
        info->status = ${NAME}_MAX_ITERATIONS;
        return 0;
    }
    info->status = solve(s, u, &now, &info->iterations, &feasible);
    answer = feasible ? &s->best : s->trials + now;
    for (int i = 0; i < VARIABLES; ++i)
        u[i] = clip(input_of(answer->z, i / NU, i % NU), input_low[i % NU], input_high[i % NU]);
    if (by_priority(s, u, &info->status)) answer = s->trials;
    if (info->status != ${NAME}_SOLVED && !feasible) return 0;
    if (info->status == ${NAME}_SOLVED) info->cost = answer->cost * COST_SCALE;
    info->inside_after = inside_after(answer);
    if (told && info->status == ${NAME}_SOLVED) told->slack = largest_slack(answer);
    kept = keeps_limits(answer);
    keep_limits(s, M, u);
    if (TERMINAL) kept = is_feasible(s, M, u);
    /* A plan that violates limits may be applied only if they are soft. */
    if (!kept && (info->status != ${NAME}_SOLVED || TERMINAL)) return 0;
    info->feasible = kept;
    follow_from_now_on(s, M, u);
    return 1;
}

/* Choose the input to apply: from the plan found, or from a fallback. */
static void choose(State *s, int found, const double *iterate, const double *target, double *u, Info *info, Told *told)
{
    int held = 1;
    info->fallback = info->status == ${NAME}_SOLVED ? ${NAME}_NONE : ${NAME}_PLAN;
    if (info->status == ${NAME}_WARMING_UP) {
        memcpy(u, before_of(s), NU * sizeof *u);
        info->fallback = s->has_previous ? ${NAME}_STEADY : ${NAME}_SAFE;
    } else if (found) {
        memcpy(u, planned(s, 0), NU * sizeof *u);
        if (told) memcpy(told->plan, s->plan, sizeof told->plan);
        held = 0;
    } else {
        const StandIn standing = stand_in(s, iterate, target, info);
        memcpy(u, standing.u, NU * sizeof *u);
        info->fallback = standing.fallback;
        info->feasible = standing.feasible;
        info->inside_after = standing.inside_after;
        /* What follows a proven plan is proven as well. */
        if (standing.fallback == ${NAME}_LEAST || (TERMINAL && standing.feasible && standing.fallback != ${NAME}_PLAN))
            follow_from_now_on(s, PLANNED, standing.u);
        if (told) memcpy(told->plan, standing.u, sizeof told->plan);
        held = 0;
    }
    keep_limits(s, 1, u);
    for (int k = 0; told && held && k < PLANNED; ++k) memcpy(told->plan + k * NU, u, NU * sizeof *u);
}

/* Complete and clip set points (N + 1, NM), as mpc/problem/set_points.py: NaN is replaced by the last known one, values
   far out of reach are clipped. */
static void aim(State *s, const double *reference, double *wanted)
{
    double last[NM], present[NY];
    ${name}_model_output(s->x, before_of(s), present);
    for (int i = 0; i < NM; ++i) {
        const double now = present[i] + s->disturbance[i];
        last[i] = s->has_set_point ? s->set_point[i] : clip(isfinite(now) ? now : 0, set_point_low[i], set_point_high[i]);
    }
    for (int k = 0; k <= N; ++k)
        for (int i = 0; i < NM; ++i) {
            const double given = reference[k * NM + i];
            if (!isnan(given)) last[i] = clip(given, set_point_low[i], set_point_high[i]);
            wanted[k * NM + i] = last[i];
        }
    memcpy(s->set_point, wanted, sizeof s->set_point);
    s->has_set_point = 1;
}

void ${name}_init(State *s)
{
    memset(s, 0, sizeof *s);
    memcpy(s->x, initial_state, sizeof s->x);
    memcpy(s->beside, initial_state, sizeof s->beside);
    s->evidence = 1;
    resume(s);
#if ERROR_MEMORY
    forget_errors(s);
#endif
    set_prices(s, 0);
    if (TERMINAL) s->prices[LIMIT_ROWS] = END_PRICE;
    for (int row = 0; row < M * BOUNDED; ++row) {
        const int k = row / SIZE(BOUNDED), j = bounded[row % SIZE(BOUNDED)];
        double *C = s->C + (PRICED + row) * VARIABLES;
        s->prices[PRICED + row] = INFINITY;
        C[k * NU + j] = 1;
        if (k) C[(k - 1) * NU + j] = -1;
    }
}

void ${name}_record(State *s, const double y[NM], const double u[NU])
{
    double applied[NU];
    double seen[NM], used[NM];
    int unknown = 0;
    for (int j = 0; j < NU; ++j) {
        applied[j] = isfinite(u[j]) ? u[j] : before_of(s)[j];
        unknown |= !isfinite(u[j]);
    }
    watch_inputs(s, applied);
    if (unknown) s->now |= ${NAME}_BROKEN_INPUTS;
    unknown |= cut(applied, applied);
    s->time += ${NAME}_DT; /* it came when it was due */
    believe(s, before_of(s), y, seen, used);
    if (s->seen >= STEPS) {
        learn(s, used, seen);
        if (s->contradictions) s->now |= ${NAME}_BROKEN_DRIFT;
    }
    s->has_plan = 0;
    advance(s, seen, applied, unknown);
    finish(s, 0);
}

void ${name}_start_from(State *s, const double u[NU])
{
    double before[NU];
    int other = 0;
    memcpy(before, before_of(s), sizeof before);
    for (int j = 0; j < NU; ++j) s->previous[j] = isfinite(u[j]) ? clip(u[j], input_low[j], input_high[j]) : before[j];
    s->has_previous = 1;
    for (int j = 0; j < NU; ++j) other |= s->previous[j] != before[j] || !isfinite(u[j]);
    if (other) count_slow(s, s->previous, 1, 1); /* nobody knows what acted since the last sample */
    if (s->seen && other) ${name}_clear_estimate(s);
}

void ${name}_clear_estimate(State *s)
{
    memcpy(s->x, initial_state, sizeof s->x);
    memcpy(s->beside, initial_state, sizeof s->beside);
    memset(s->disturbance, 0, sizeof s->disturbance);
    memset(s->level, 0, sizeof s->level);
    memset(s->record, 0, sizeof s->record);
    s->seen = s->has_disturbance = s->has_plan = s->age = s->contradictions = s->impossible = 0;
    s->can_undo = 0;
    resume(s);
#if ERROR_MEMORY
    forget_errors(s);
#endif
}

void ${name}_step_preview(State *s, const double y[NM], const double reference[(N + 1) * NM], double u[NU], Info *info)
{
    ${name}_step_watched(s, y, reference, 0, NAN, u, info);
}

/* One step; `more` may be null. */
static void decide(State *s, const double *y, const double *reference, const double *applied, double time, double *u,
    Info *info, Told *more)
{
    Info told = {${NAME}_WARMING_UP, ${NAME}_NONE, 0, 0, 0, N + 1, 0, 0, NAN};
    double target[NM], offset[NM], wanted[(N + 1) * NM], iterate[VARIABLES], seen[NM], used[NM];
    int found = 0, reaction;
    aim(s, reference, wanted);
    catch_up(s, applied, time);
    if (!moved_slowly(s)) s->now |= ${NAME}_BROKEN_MOVES;
    believe(s, before_of(s), y, seen, used);
    memset(offset, 0, sizeof offset);
    if (s->seen >= STEPS) {
        told.certified = is_certified(s);
        learn(s, used, seen);
        told.contradictions = s->contradictions;
        if (s->contradictions) s->now |= ${NAME}_BROKEN_DRIFT;
        if (s->has_disturbance) memcpy(offset, s->disturbance, sizeof offset);
        reaction = reaction_of(s);
        if (reaction == BACK_OFF) memcpy(wanted, safe_reference, sizeof wanted);
        s->wide = reaction == WIDEN;
        if (reaction != HOLD) found = plan_ahead(s, wanted, offset, iterate, &told, more);
    }
    for (int i = 0; i < NM; ++i) target[i] = wanted[i] - offset[i] - s->level[(N + 1) * NM + i];
    choose(s, found, iterate, target, u, &told, more);
#if ERROR_MEMORY
    if (more) {
        memcpy(more->low, s->error_low, sizeof more->low);
        memcpy(more->high, s->error_high, sizeof more->high);
    }
#endif
    advance(s, seen, u, 0);
    told.contradictions += s->impossible;
    told.broken = s->now | s->lasting;
    if (more) more->now = s->now;
    finish(s, 1);
    told.certified = told.certified && !told.broken;
    if (info) *info = told;
}

void ${name}_step_watched(State *s, const double y[NM], const double reference[(N + 1) * NM], const double *applied,
    double time, double u[NU], Info *info)
{
    decide(s, y, reference, applied, time, u, info, 0);
}

void ${name}_step(State *s, const double y[NM], const double reference[NM], double u[NU], Info *info)
{
    double held[(N + 1) * NM];
    for (int k = 0; k <= N; ++k) memcpy(held + k * NM, reference, NM * sizeof *held);
    ${name}_step_preview(s, y, held, u, info);
}
