/* Fallbacks where a solve gives no plan that keeps all limits, as mpc/safety/fallback.py and mpc/safety/recovery.py:
   the first of last plan, solver's iterate, governed steady input and safe input that keeps them, or the one that
   violates them least, or that is inside hard ones sooner. */

enum { STEADY_ITERATIONS = 100, SHARES = $SHARES };

typedef ${name}_stand_in StandIn;

/* Whether a violation is less than another, by the first of n ranks in which they differ by more than rounding. */
static int less(int n, const double *a, const double *b)
{
    for (int rank = 0; rank + 1 < n; ++rank)
        if (a[rank] != b[rank] && !(fabs(a[rank] - b[rank]) <= KEPT + EQUAL * fmax(a[rank], b[rank])))
            return a[rank] < b[rank];
    return a[n - 1] < b[n - 1];
}

/* Whether a plan violates limits of any rank. */
static int violates(const StandIn *plan)
{
    for (int rank = 0; rank < RANKS; ++rank)
        if (plan->violation[rank] > 0) return 1;
    return 0;
}

/* Last input, or the safe one before there was any. */
static const double *before_of(const State *s)
{
    return s->has_previous ? s->previous : safe_input;
}

/* Row k, counted from now on, of the last plan. */
static const double *planned(const State *s, int k)
{
    return s->plan + (k + s->age < PLANNED ? k + s->age : PLANNED - 1) * NU;
}

/* Clip inputs u (rows, NU) to input and move limits, one after the other. */
static void keep_limits(const State *s, int rows, double *u)
{
    for (int i = 0; i < rows * NU; ++i) {
        const int j = i % NU;
        const double before = i < NU ? before_of(s)[j] : u[i - NU];
        const double moved = clip(u[i], before - largest_move[j], before + largest_move[j]);
        u[i] = clip(moved, input_low[j], input_high[j]);
    }
}

/* Whether inputs u (rows, NU), M or PLANNED of them, from now on keep all limits, checked independently of the solver. */
static int is_feasible(State *s, int rows, const double *u)
{
    Trial *trial = s->trials;
    for (int i = 0; i < rows * NU; ++i) {
        const int j = i % NU;
        const double before = i < NU ? before_of(s)[j] : u[i - NU];
        if (fabs(u[i] - before) > largest_move[j] * (1 + 1e-12)) return 0;
        if (i < VARIABLES) trial->z[i] = (u[i] - middle[j]) / half[j];
    }
    follow(s, trial, rows == PLANNED ? u : 0);
    return isfinite(trial->cost) && keeps_limits(trial);
}

/* Hold the last of the first M inputs of a plan u (PLANNED, NU). */
static void hold_last(double *u)
{
    for (int i = VARIABLES; i < PLANNED * NU; ++i) u[i] = u[i - NU];
}

/* Store inputs u (rows, NU), M or PLANNED of them, as the plan to follow. */
static void follow_from_now_on(State *s, int rows, const double *u)
{
    memcpy(s->plan, u, (size_t)rows * NU * sizeof *u);
    if (rows < PLANNED) hold_last(s->plan);
    s->has_plan = 1;
    s->age = 0;
}

/* Violation of the last limits of the limited output l by its steady value (scaled); infinite for NaN. */
static double beyond_rest(const State *s, int l, double value)
{
    const int row = (N - FIRST) * LIMITED + l;
    const double over = larger(value - s->high[row], s->low[row] - value) - INSIDE;
    return over > 0 || isnan(value) ? (isnan(value) ? INFINITY : over) : 0;
}

/* First sample from which on a trial keeps the output limits, or the hard ones where some are hard. */
static int inside_after(const Trial *trial)
{
    for (int row = LIMIT_ROWS - 1; row >= 0; --row)
        if (limit_counted[row % SIZE(LIMITED)] && !(trial->excess[row] - INSIDE <= KEPT)) return sample_of(row) + 1;
    return 0;
}

/* Steady-state cost of constant inputs v (in half ranges): squared distance from the target, and penalties on violated
   limits; infinity where there is no steady state. y: outputs in multiples of their scale. */
static double held_cost(State *s, const double *v, const double *target, double *x, double *y)
{
    double u[NU], sum = 0;
    for (int j = 0; j < NU; ++j) u[j] = middle[j] + half[j] * v[j];
    zero(NX, x);
    if (!equilibrium(s, u, x, 0)) return INFINITY;
    ${name}_model_output(x, u, y);
    for (int i = 0; i < NY; ++i) {
        const double error = (y[i] - target[i % NM]) / scale[i];
        sum += held_weight[i] * error * error;
        y[i] /= scale[i];
    }
    for (int l = 0; l < LIMITED; ++l) sum += held_price[l] * beyond_rest(s, l, y[limited[l]]);
    return isfinite(sum) ? sum : INFINITY;
}

/* Gauss-Newton model of the steady-state cost in s->H and s->g; C: derivatives of the limited outputs by v. */
static int steady_model(State *s, const double *v, const double *target, const double *x, const double *y, double *C)
{
    double u[NU], row[NU];
    for (int j = 0; j < NU; ++j) u[j] = middle[j] + half[j] * v[j];
    linearise_at(s, x, u);
    resolvent(s, 0);
    for (int i = 0; i < NX; ++i) memcpy(s->gain + i * NU, s->Jx + i * NS + NX, NU * sizeof *row);
    if (!eliminate(s->square, s->gain, NU)) return 0;
    zero(NU * NU, s->H);
    zero(NU, s->g);
    for (int i = 0, l = 0; i < NY; ++i) {
        const double error = y[i] - target[i % NM] / scale[i];
        for (int j = 0; j < NU; ++j) {
            row[j] = s->Jy[i * NS + NX + j];
            for (int k = 0; k < NX; ++k) row[j] += s->Jy[i * NS + k] * s->gain[k * NU + j];
            row[j] *= half[j] / scale[i];
        }
        for (int j = 0; j < NU; ++j) axpy(NU, 2 * held_weight[i] * row[j], row, s->H + j * NU);
        axpy(NU, 2 * held_weight[i] * error, row, s->g);
        if (l < LIMITED && limited[l] == i) memcpy(C + l++ * NU, row, sizeof row);
    }
    return 1;
}

/* Constant input of least steady-state cost within its limits (Levenberg-Marquardt with penalised limits); 0 where none
   is found. */
static int steady_input(State *s, const double *target, double *found)
{
    double v[NU], next[NU], x[NX], next_x[NX], y[NY], next_y[NY], cost, damping = 1e-3, H[NU * NU];
    double C[SIZE(LIMITED) * NU] = {0.0}; /* compilers do not see that all of it is set */
    memset(v, 0, sizeof v);
    cost = held_cost(s, v, target, x, y);
    if (!isfinite(cost)) return 0;
    for (int k = 0; k < STEADY_ITERATIONS && damping < 1e12; ++k) {
        double most = 0, moved = 0, other;
        if (!steady_model(s, v, target, x, y, C)) return 0;
        for (int j = 0; j < NU; ++j) most = fmax(most, s->H[j * NU + j]);
        memcpy(H, s->H, sizeof H);
        for (int j = 0; j < NU; ++j) {
            H[j * NU + j] += (damping + 1e-14) * most + 1e-300;
            s->lower[j] = -1 - v[j];
            s->upper[j] = 1 - v[j];
        }
        for (int l = 0; l < LIMITED; ++l) {
            const int row = (N - FIRST) * LIMITED + l;
            s->lower[NU + l] = s->low[row] - INSIDE - y[limited[l]];
            s->upper[NU + l] = s->high[row] + INSIDE - y[limited[l]];
        }
        if (qp_solve(&s->qp, NU, LIMITED, H, s->g, C, s->lower, s->upper, held_price) != QP_SOLVED) return 0;
        for (int j = 0; j < NU; ++j) {
            next[j] = clip(v[j] + s->qp.z[j], -1, 1);
            moved = fmax(moved, fabs(s->qp.z[j]));
        }
        if (moved <= 1e-10) break;
        other = held_cost(s, next, target, next_x, next_y);
        if (!(other < cost)) {
            damping *= 10;
            continue;
        }
        damping = fmax(0.1 * damping, 1e-14);
        cost = other;
        memcpy(v, next, sizeof v);
        memcpy(x, next_x, sizeof x);
        memcpy(y, next_y, sizeof y);
    }
    for (int j = 0; j < NU; ++j) found[j] = clip(middle[j] + half[j] * v[j], input_low[j], input_high[j]);
    return 1;
}

/* Outputs (NY, scaled) at the end of a trial that are checked in addition to its samples, as in mpc/safety/fallback.py:
   those of the steady state under the last input, or with a terminal set, where these are the last sample, of x_N. */
static void end_outputs(State *s, const Trial *trial, double *y)
{
    const double *point = trial->points + N * NZ;
    double x[NX], u[NU];
    memcpy(x, point, sizeof x);
    memcpy(u, point + NX, sizeof u);
    memcpy(y, trial->y + N * NY, NY * sizeof *y);
    if (!isfinite(largest(NX, x))) return;
    if (TERMINAL) {
        for (int i = 0; i < NX; ++i) x[i] += trial->gap[i];
    } else if (!equilibrium(s, u, x, 1)) return; /* an integrator has no steady state */
    ${name}_model_output(x, u, y);
    for (int i = 0; i < NY; ++i) y[i] /= scale[i];
}

/* Sum of a trial's violations in each rank; returns whether it keeps all limits. */
static int violation_of(const Trial *trial, double *violation)
{
    int kept = 1;
    zero(RANKS, violation);
    for (int row = 0; row < LIMIT_ROWS; ++row) {
        const int l = row % SIZE(LIMITED);
        const double over = trial->excess[row] - INSIDE;
        if (over <= KEPT) continue;
        kept = 0;
        violation[limit_rank[l]] += limit_weight[l] * (isnan(over) ? INFINITY : over);
    }
    return kept;
}

/* Evaluate the violations of a plan in to->u, after clipping it to input and move limits. */
static void assess(State *s, StandIn *to, ${name}_fallback fallback)
{
    Trial *trial = s->trials;
    double y[NY];
    for (int i = 0; i < PLANNED * NU; ++i) to->u[i] = clip(to->u[i], input_low[i % NU], input_high[i % NU]);
    keep_limits(s, PLANNED, to->u);
    for (int i = 0; i < VARIABLES; ++i) trial->z[i] = (to->u[i] - middle[i % NU]) / half[i % NU];
    follow(s, trial, to->u);
    end_outputs(s, trial, y);
    to->fallback = fallback;
    to->inside_after = inside_after(trial);
    to->feasible = violation_of(trial, to->violation);
    for (int l = 0; l < LIMITED; ++l) {
        const double over = beyond_rest(s, l, y[limited[l]]) - terminal_margin[l];
        if (!(over <= KEPT)) to->violation[limit_rank[l]] += limit_weight[l] * over;
    }
    to->feasible = to->feasible && (!TERMINAL || is_feasible(s, PLANNED, to->u));
}

/* Replace *least by a plan that violates limits less. */
static void keep_least(StandIn *least, const StandIn *plan)
{
    if (least->violation[0] < 0 || less(RANKS, plan->violation, least->violation)) *least = *plan;
}

/* Replace *best by a plan that violates limits less; returns 1 if the plan violates none. */
static int consider(State *s, StandIn *best, StandIn *plan, ${name}_fallback fallback)
{
    assess(s, plan, fallback);
    if (RETURNS) keep_least(s->soonest + plan->inside_after, plan);
    keep_least(best, plan);
    return !violates(plan);
}

/* Plan that holds the input u. */
static void hold(StandIn *plan, const double *u)
{
    for (int k = 0; k < PLANNED; ++k) memcpy(plan->u + k * NU, u, NU * sizeof *u);
}

/* Plan that holds the input at a share of the way from the last one to the target. */
static void hold_between(const State *s, StandIn *plan, double share, const double *target)
{
    double u[NU];
    for (int j = 0; j < NU; ++j) u[j] = before_of(s)[j] + share * (target[j] - before_of(s)[j]);
    hold(plan, u);
}

/* Plans that may bring outputs back: part of the way to the target, or one input at an end of its range first. */
static void bring_back(State *s, StandIn *best, const double *target, ${name}_fallback fallback)
{
    StandIn plan;
    for (double share = 0.5; share >= 0.25; share *= 0.5) {
        hold_between(s, &plan, share, target);
        if (consider(s, best, &plan, fallback)) return;
    }
    for (int samples = 1; samples <= 4 && samples < M; samples *= 2)
        for (int j = 0; j < NU; ++j)
            for (int high = 0; high < 2; ++high) {
                hold(&plan, target);
                for (int k = 0; k < samples; ++k) plan.u[k * NU + j] = high ? input_high[j] : input_low[j];
                if (consider(s, best, &plan, fallback)) return;
            }
}

/* Held input as close to a target as limits allow; returns 1 if a plan was found that keeps them. */
static int govern(State *s, StandIn *best, const double *target, ${name}_fallback fallback)
{
    StandIn plan;
    double near = 0, far = 1;
    hold(&plan, target);
    if (consider(s, best, &plan, fallback)) return 1;
    hold(&plan, before_of(s));
    if (!consider(s, best, &plan, fallback)) {
        bring_back(s, best, target, fallback);
        return !violates(best);
    }
    for (int k = 0; k < SHARES; ++k) {
        const double share = 0.5 * (near + far);
        hold_between(s, &plan, share, target);
        assess(s, &plan, fallback);
        if (violates(&plan)) far = share;
        else {
            near = share;
            *best = plan;
        }
    }
    return 1;
}

/* Replace *best by a plan that is back inside hard limits sooner, if the bisection finds one: by the first inside among
   that one and the plans of less violation. */
static void return_sooner(State *s, StandIn *best)
{
    double low[SIZE(LIMIT_ROWS)], high[SIZE(LIMIT_ROWS)], excess[SIZE(LIMITED)];
    StandIn sooner = *best, plan;
    int first = 1, last = best->inside_after, found = 0;
    memcpy(low, s->low, sizeof low);
    memcpy(high, s->high, sizeof high);
    zero(SIZE(LIMITED), excess);
    plan = *best;
    assess(s, &plan, ${NAME}_LEAST);
    for (int row = 0; row < LIMIT_ROWS; ++row) {
        double *most = excess + row % SIZE(LIMITED);
        if (limit_hard[row % SIZE(LIMITED)]) *most = fmax(*most, s->trials[0].excess[row] - INSIDE);
        if (!isfinite(s->trials[0].excess[row])) return;
    }
    while (first < last) {
        const int k = (first + last) / 2;
        int now, iterations, feasible;
        Status status;
        for (int row = 0; row < LIMIT_ROWS; ++row) {
            const double room = sample_of(row) < k ? excess[row % SIZE(LIMITED)] : 0;
            s->low[row] = low[row] - room;
            s->high[row] = high[row] + room;
        }
        status = solve(s, sooner.u, &now, &iterations, &feasible);
        if (status == ${NAME}_SOLVED || feasible) {
            const Trial *answer = feasible ? &s->best : s->trials + now;
            for (int i = 0; i < VARIABLES; ++i) sooner.u[i] = input_of(answer->z, i / NU, i % NU);
            hold_last(sooner.u);
            found = 1;
            last = k;
        } else first = k + 1;
    }
    memcpy(s->low, low, sizeof low);
    memcpy(s->high, high, sizeof high);
    if (!found) return;
    assess(s, &sooner, ${NAME}_LEAST);
    if (sooner.inside_after >= best->inside_after) return;
    *best = sooner;
    /* A plan of less violation is better if it is inside as soon. */
    for (int k = sooner.inside_after; k >= 0; --k)
        if (s->soonest[k].violation[0] >= 0 && less(RANKS, s->soonest[k].violation, sooner.violation))
            *best = s->soonest[k];
}

/* Choose the plan to apply where the solve of the sample in s gave none; iterate (M, NU) is the solver's last one. */
static StandIn stand_in(State *s, const double *iterate, const double *target, const Info *info)
{
    StandIn best, plan;
    double held[NU];
    const int lost = info->status == ${NAME}_FAILED, usable = info->iterations > 0 && isfinite(largest(VARIABLES, iterate));
    ${name}_fallback kind = ${NAME}_STEADY;
    best.violation[0] = -1;
    for (int k = 0; k < SIZE(RETURNS * (N + 2)); ++k) s->soonest[k].violation[0] = -1;
    if (s->has_plan && (TERMINAL || s->age < N)) {
        for (int k = 0; k < PLANNED; ++k) memcpy(plan.u + k * NU, planned(s, k), NU * sizeof *held);
        if (consider(s, &best, &plan, ${NAME}_PLAN)) return best;
    }
    if (usable && !lost) {
        memcpy(plan.u, iterate, VARIABLES * sizeof *held);
        hold_last(plan.u);
        if (consider(s, &best, &plan, ${NAME}_LEAST)) return best;
    }
    if (!steady_input(s, target, held)) {
        memcpy(held, safe_input, sizeof held);
        kind = ${NAME}_SAFE;
    }
    if (govern(s, &best, held, kind)) return best;
    if (kind == ${NAME}_STEADY) {
        hold(&plan, safe_input);
        if (consider(s, &best, &plan, ${NAME}_SAFE)) return best;
    }
    if (usable && lost) {
        memcpy(plan.u, iterate, VARIABLES * sizeof *held);
        hold_last(plan.u);
        if (consider(s, &best, &plan, ${NAME}_LEAST)) return best;
    }
    if (RETURNS && info->status == ${NAME}_INFEASIBLE && best.inside_after > 1) return_sooner(s, &best);
    return best;
}

