/* State and disturbance estimate, one solve, and what happens when it fails: as mpc/controller.py. */

enum { STEADY_ITERATIONS = 100 };

static const double *before_of(const State *s)
{
    return s->has_previous ? s->previous : safe_input;
}

/* Whether the certified error of the present estimate holds. */
static int is_certified(const State *s)
{
    return CERTIFIED && s->seen >= STEPS && s->bound <= BOUND_PROMISED;
}

/* The filter d += gain (e - d) with the output error of the present estimate; it starts at a complete measurement.
   Where limits learn from measurements, they do so here. */
static void learn(State *s, const double *y)
{
    double error[NY];
    int complete = 1;
    correct_level(s, before_of(s));
    ${name}_model_output(s->x, before_of(s), error);
    for (int i = 0; i < NM; ++i) {
        error[i] = y[i] - error[i];
        complete = complete && isfinite(error[i]);
    }
#if RECALL
    see_errors(s, error, is_certified(s));
#endif
    if (!s->has_disturbance && !complete) return;
    for (int i = 0; i < NM; ++i) {
        if (!isfinite(error[i])) continue;
        s->disturbance[i] += (s->has_disturbance ? DISTURBANCE_GAIN : 1) * (error[i] - s->disturbance[i]);
    }
    s->has_disturbance = 1;
}

/* The observer's estimate for the next sample. */
static void observe(State *s, const double *y, const double *u)
{
#if OBSERVER == WASHOUT
    /* A ring of inputs; the model runs over them from the initial state at every sample. */
    const int kept = s->seen < STEPS ? s->seen + 1 : STEPS;
    (void)y;
    memcpy(s->record + (s->seen % STEPS) * NU, u, NU * sizeof *u);
    memcpy(s->x, initial_state, sizeof s->x);
    for (int k = 0; k < kept; ++k)
        ${name}_model_step(s->x, s->record + ((s->seen + 1 - kept + k) % STEPS) * NU, s->x);
#elif OBSERVER == INNOVATION
    double expected[NY];
    int complete = 1;
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
#else
    (void)y;
    ${name}_model_step(s->x, u, s->x);
#endif
}

static void advance(State *s, const double *y, const double *u)
{
#if RECALL
    const int before = is_certified(s);
#endif
    observe(s, y, u);
    memcpy(s->previous, u, sizeof s->previous);
    s->has_previous = 1;
    if (FORGETS) ${name}_model_step(s->beside, u, s->beside);
    if (s->age < N) ++s->age;
    /* Beyond the warm-up only the place in the ring counts. */
    s->seen = s->seen + 1 < 2 * STEPS ? s->seen + 1 : STEPS;
#if RECALL
    /* Nothing is known of an estimate that follows, or is, an uncertified one. */
    if (before && is_certified(s)) shift_errors(s);
    else forget_errors(s);
#endif
}

/* How far the steady output under inputs v (in half ranges) is from the target: half the square, or infinity. */
static double misfit(State *s, const double *v, const double *target, double *x, double *error)
{
    double u[NU], sum = 0;
    for (int j = 0; j < NU; ++j) u[j] = middle[j] + half[j] * v[j];
    zero(NX, x);
    if (!equilibrium(s, u, x, 0)) return INFINITY;
    ${name}_model_output(x, u, error);
    for (int i = 0; i < NY; ++i) {
        error[i] = (error[i] - target[i % NM]) / scale[i];
        sum += 0.5 * error[i] * error[i];
    }
    return isfinite(sum) ? sum : INFINITY;
}

/* s->H = gradient's Gauss-Newton matrix of the misfit, s->g = its gradient; x is the equilibrium under v. */
static int steady_model(State *s, const double *v, const double *x, const double *error)
{
    double u[NU], row[NU];
    for (int j = 0; j < NU; ++j) u[j] = middle[j] + half[j] * v[j];
    linearise_at(s, x, u);
    resolvent(s, 0);
    for (int i = 0; i < NX; ++i) memcpy(s->gain + i * NU, s->Jx + i * NS + NX, NU * sizeof *row);
    if (!eliminate(s->square, s->gain, NU)) return 0;
    zero(NU * NU, s->H);
    zero(NU, s->g);
    for (int i = 0; i < NY; ++i) {
        for (int j = 0; j < NU; ++j) {
            row[j] = s->Jy[i * NS + NX + j];
            for (int k = 0; k < NX; ++k) row[j] += s->Jy[i * NS + k] * s->gain[k * NU + j];
            row[j] *= half[j] / scale[i];
        }
        for (int j = 0; j < NU; ++j) axpy(NU, row[j], row, s->H + j * NU);
        axpy(NU, error[i], row, s->g);
    }
    return 1;
}

/* Input within its limits whose steady output is nearest to the target (Levenberg-Marquardt); 0 where none is found. */
static int steady_input(State *s, const double *target, double *found)
{
    double v[NU], next[NU], x[NX], next_x[NX], error[NY], next_error[NY], cost, damping = 1e-3, H[NU * NU];
    memset(v, 0, sizeof v);
    cost = misfit(s, v, target, x, error);
    if (!isfinite(cost)) return 0;
    for (int k = 0; k < STEADY_ITERATIONS && damping < 1e12; ++k) {
        double most = 0, moved = 0, other;
        if (!steady_model(s, v, x, error)) return 0;
        for (int j = 0; j < NU; ++j) most = fmax(most, s->H[j * NU + j]);
        memcpy(H, s->H, sizeof H);
        for (int j = 0; j < NU; ++j) {
            H[j * NU + j] += (damping + 1e-14) * most + 1e-300;
            s->lower[j] = -1 - v[j];
            s->upper[j] = 1 - v[j];
        }
        if (qp_solve(&s->qp, NU, 0, H, s->g, s->C, s->lower, s->upper, s->prices) != QP_SOLVED) return 0;
        for (int j = 0; j < NU; ++j) {
            next[j] = clip(v[j] + s->qp.z[j], -1, 1);
            moved = fmax(moved, fabs(s->qp.z[j]));
        }
        if (moved <= 1e-10) break;
        other = misfit(s, next, target, next_x, next_error);
        if (!(other < cost)) {
            damping *= 10;
            continue;
        }
        damping = fmax(0.1 * damping, 1e-14);
        cost = other;
        memcpy(v, next, sizeof v);
        memcpy(x, next_x, sizeof x);
        memcpy(error, next_error, sizeof error);
    }
    for (int j = 0; j < NU; ++j) found[j] = clip(middle[j] + half[j] * v[j], input_low[j], input_high[j]);
    return 1;
}

/* The sample in the solver's units: reference (N + 1, NM) less the disturbance and the level's correction, limits less
   them in practical mode (less the disturbance alone where the tightening was calibrated with it), and less what measurements leave of the errors where they are recalled. */
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
            double low = output_low[k * NY + i], high = output_high[k * NY + i];
#if RECALL
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

/* Row k of the last plan as it is to be applied from now on. */
static const double *planned(const State *s, int k)
{
    return s->plan + (k + s->age < M ? k + s->age : M - 1) * NU;
}

/* Inputs within input and move limits, from the input before them on; rows of NU. */
static void keep_limits(const State *s, int rows, double *u)
{
    for (int i = 0; i < rows * NU; ++i) {
        const int j = i % NU;
        const double before = i < NU ? before_of(s)[j] : u[i - NU];
        const double moved = clip(u[i], before - largest_move[j], before + largest_move[j]);
        u[i] = clip(moved, input_low[j], input_high[j]);
    }
}

/* Whether inputs u (M, NU) from now on keep all limits, whatever the solver said. */
static int is_feasible(State *s, const double *u)
{
    Trial *trial = s->trials;
    for (int i = 0; i < VARIABLES; ++i) {
        const int j = i % NU;
        const double before = i < NU ? before_of(s)[j] : u[i - NU];
        if (fabs(u[i] - before) > largest_move[j] * (1 + 1e-12)) return 0;
        trial->z[i] = (u[i] - middle[j]) / half[j];
    }
    follow(s, trial);
    return isfinite(trial->cost) && keeps_limits(trial);
}

/* Solve the sample. Returns whether there is a plan to follow, which is then kept. */
static int plan_ahead(State *s, const double *reference, const double *offset, Info *info)
{
    double u[VARIABLES];
    const Trial *answer;
    int now, feasible;
    scale_sample(s, reference, offset);
    for (int k = 0; k < M; ++k) memcpy(u + k * NU, s->has_plan ? planned(s, k) : before_of(s), NU * sizeof *u);
    info->status = solve(s, u, &now, &info->iterations, &feasible);
    if (info->status != ${NAME}_SOLVED && !feasible) return 0;
    answer = feasible ? &s->best : s->trials + now;
    if (info->status == ${NAME}_SOLVED) info->cost = answer->cost * COST_SCALE;
    for (int i = 0; i < VARIABLES; ++i)
        u[i] = clip(input_of(answer->z, i / NU, i % NU), input_low[i % NU], input_high[i % NU]);
    keep_limits(s, M, u);
    info->feasible = TERMINAL ? is_feasible(s, u) : keeps_limits(answer);
    /* A plan that keeps its limits is not given up for one that does not. */
    if (!info->feasible && (info->status != ${NAME}_SOLVED || (TERMINAL && s->has_plan))) return 0;
    memcpy(s->plan, u, sizeof s->plan);
    s->has_plan = 1;
    s->age = 0;
    return 1;
}

/* The input to apply, and where it comes from: the first that exists of solution, plan, steady input, safe input. */
static void choose(State *s, int found, const double *target, double *u, Info *info)
{
    info->fallback = info->status == ${NAME}_SOLVED ? ${NAME}_NONE : ${NAME}_PLAN;
    if (info->status == ${NAME}_WARMING_UP) {
        memcpy(u, before_of(s), NU * sizeof *u);
        info->fallback = s->has_previous ? ${NAME}_STEADY : ${NAME}_SAFE;
    } else if (found) {
        memcpy(u, planned(s, 0), NU * sizeof *u);
    } else if (s->has_plan && (TERMINAL || s->age < N)) {
        double shifted[VARIABLES];
        for (int k = 0; k < M; ++k) memcpy(shifted + k * NU, planned(s, k), NU * sizeof *u);
        keep_limits(s, M, shifted);
        memcpy(u, shifted, NU * sizeof *u);
        info->fallback = ${NAME}_PLAN;
        info->feasible = TERMINAL && is_feasible(s, shifted);
    } else {
        info->fallback = ${NAME}_STEADY;
        info->feasible = 0;
        if (!steady_input(s, target, u)) {
            memcpy(u, safe_input, NU * sizeof *u);
            info->fallback = ${NAME}_SAFE;
        }
    }
    keep_limits(s, 1, u);
}

void ${name}_init(State *s)
{
    memset(s, 0, sizeof *s);
    memcpy(s->x, initial_state, sizeof s->x);
    memcpy(s->beside, initial_state, sizeof s->beside);
    s->bound = BOUND_AT_START;
#if RECALL
    forget_errors(s);
#endif
    for (int row = 0; row < PRICED; ++row) s->prices[row] = row < LIMIT_ROWS ? price[row % SIZE(LIMITED)] : END_PRICE;
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
    for (int j = 0; j < NU; ++j) applied[j] = isfinite(u[j]) ? u[j] : before_of(s)[j];
    if (s->seen >= STEPS) learn(s, y);
    s->has_plan = 0;
    advance(s, y, applied);
}

void ${name}_step_preview(State *s, const double y[NM], const double reference[(N + 1) * NM], double u[NU], Info *info)
{
    Info told = {${NAME}_WARMING_UP, ${NAME}_NONE, 0, 0, 0, 0, NAN};
    double target[NM], offset[NM];
    int found = 0;
    memset(offset, 0, sizeof offset);
    if (s->seen >= STEPS) {
        told.certified = is_certified(s);
        learn(s, y);
        told.contradictions = s->contradictions;
        if (s->has_disturbance) memcpy(offset, s->disturbance, sizeof offset);
        found = plan_ahead(s, reference, offset, &told);
    }
    for (int i = 0; i < NM; ++i) target[i] = reference[i] - offset[i] - s->level[(N + 1) * NM + i];
    choose(s, found, target, u, &told);
    advance(s, y, u);
    told.contradictions += s->impossible;
    told.certified = told.certified && !told.contradictions;
    if (info) *info = told;
}

void ${name}_step(State *s, const double y[NM], const double reference[NM], double u[NU], Info *info)
{
    double held[(N + 1) * NM];
    for (int k = 0; k <= N; ++k) memcpy(held + k * NM, reference, NM * sizeof *held);
    ${name}_step_preview(s, y, held, u, info);
}
