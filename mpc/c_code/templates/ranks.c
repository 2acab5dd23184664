/* Prioritised limits, as mpc/problem/priorities.py: lexicographic minimisation of violations, rank by rank. */

typedef struct {
    double u[VARIABLES], over[SIZE(LIMIT_ROWS)], violation[RANKS];
} Ranked;

/* Evaluate the violations of the limits in s by inputs found->u. */
static void rank_plan(State *s, Ranked *found)
{
    Trial *trial = s->trials;
    for (int i = 0; i < VARIABLES; ++i) trial->z[i] = (found->u[i] - middle[i % NU]) / half[i % NU];
    follow(s, trial, 0);
    for (int row = 0; row < LIMIT_ROWS; ++row) found->over[row] = isnan(trial->excess[row]) ? INFINITY : trial->excess[row];
    violation_of(trial, found->violation);
}

/* Solve with limits relaxed by `room`, from found->u; the first `kept` ranks must not be violated further, those after
   `last` are left out. 0 where the solver fails. */
static int solve_rank(State *s, const double *room, int kept, int last, Ranked *found)
{
    double low[SIZE(LIMIT_ROWS)], high[SIZE(LIMIT_ROWS)];
    int now, iterations, feasible;
    Status status;
    memcpy(low, s->low, sizeof low);
    memcpy(high, s->high, sizeof high);
    for (int row = 0; row < LIMIT_ROWS; ++row) {
        const double wider = limit_rank[row % SIZE(LIMITED)] > last ? INFINITY : room[row];
        s->low[row] -= wider;
        s->high[row] += wider;
    }
    set_prices(s, kept);
    status = solve(s, found->u, &now, &iterations, &feasible);
    set_prices(s, 0);
    memcpy(s->low, low, sizeof low);
    memcpy(s->high, high, sizeof high);
    if (status != ${NAME}_SOLVED && status != ${NAME}_INFEASIBLE) return 0;
    for (int i = 0; i < VARIABLES; ++i)
        found->u[i] = clip(input_of(s->trials[now].z, i / NU, i % NU), input_low[i % NU], input_high[i % NU]);
    rank_plan(s, found);
    return 1;
}

/* Relax the limits of a rank by the violations found. */
static void make_room(const Ranked *found, int rank, double *room)
{
    for (int row = 0; row < LIMIT_ROWS; ++row)
        if (limit_rank[row % SIZE(LIMITED)] == rank) room[row] = found->over[row];
}

/* Replace the plan u (M, NU) by one with the least violation of the first rank, then of the next. Returns 1 if limits
   have ranks: the plan then is s->trials[0], too. */
static int by_priority(State *s, double *u, Status *status)
{
    double room[SIZE(LIMIT_ROWS)];
    Ranked best, other;
    int better = 0;
    if (RANKS < 2 || (*status != ${NAME}_SOLVED && *status != ${NAME}_INFEASIBLE)) return 0;
    memcpy(best.u, u, sizeof best.u);
    rank_plan(s, &best);
    zero(SIZE(LIMIT_ROWS), room);
    for (int rank = 0; rank < RANKS - 1; ++rank) {
        if (best.violation[rank] > 0) {
            other = best;
            if (solve_rank(s, room, rank, rank, &other) && less(rank + 1, other.violation, best.violation)) {
                make_room(&other, rank, room);
                best = other;
                better = 1;
                if (solve_rank(s, room, rank + 1, RANKS, &other) && less(RANKS, other.violation, best.violation)) best = other;
            }
        }
        make_room(&best, rank, room);
    }
    rank_plan(s, &best); /* into s->trials[0] */
    memcpy(u, best.u, sizeof best.u);
    if (better) *status = keeps_hard(s->trials) ? ${NAME}_SOLVED : ${NAME}_INFEASIBLE;
    return 1;
}
