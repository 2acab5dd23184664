/* Closed loops of a controller and a plant, as mpc/loops/run.py: warm-up, then one sample after the other. All random
   numbers are drawn before. The controller's source is part of this file, so that what its steps found can be read. */
#define _POSIX_C_SOURCE 199309L
#include "$header"

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define RESTARTS $restarts
#define HOOKED_PLANT $hooked
#if RESTARTS
static double washout_start[${NAME}_NX];
#define WASHOUT_START washout_start
#endif

/* Numbers that are computed side by side, in registers where the processor has such (GCC and Clang). */
typedef double Lanes __attribute__((vector_size(32)));
typedef uint64_t Bits __attribute__((vector_size(32)));
enum { LANES = 4 };

/* Hyperbolic tangent within 3 units in the last place, without branches: e / (e + 2) with e = expm1(2|v|) = (2^k - 1) +
   2^k expm1(r), 2|v| = k ln 2 + r, |r| <= ln(2) / 2; as controlrnn/kernels/compiled/simd.py. It is 1 to the last bit
   beyond 20; NaN stays NaN. k is rounded by adding 1.5 * 2^52, which leaves it in the lowest bits of the sum. */
static inline Lanes lanes_tanh(Lanes v)
{
    static const double c[] = {
        1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
        1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0,
    };
    const Bits sign = (Bits)v & (uint64_t)1 << 63;
    const Lanes end = {40, 40, 40, 40}, size = (Lanes)((Bits)(v + v) ^ sign);
    const Bits beyond = (Bits)(size > end);
    const Lanes y = (Lanes)((beyond & (Bits)end) | (~beyond & (Bits)size));
    const Lanes shifted = y * 1.4426950408889634 + 6755399441055744.0, k = shifted - 6755399441055744.0;
    const Lanes r = (y - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10, s = r * r, f = s * s;
    const Lanes low = (c[0] + c[1] * r) + (c[2] + c[3] * r) * s, high = (c[4] + c[5] * r) + (c[6] + c[7] * r) * s;
    const Lanes most = (c[8] + c[9] * r) + (c[10] + c[11] * r) * s;
    const Lanes power = (Lanes)(((Bits)shifted + 1023) << 52);
    const Lanes e = power * (s * (low + (high + most * f) * f) + r) + (power - 1);
    return (Lanes)((Bits)(e / (e + 2)) | sign);
}

static inline Lanes lanes_same(Lanes v) { return v; }

static inline Lanes lanes_at(const double *a)
{
    Lanes v;
    memcpy(&v, a, sizeof v);
    return v;
}

/* out = of(T z + b), several rows at a time; T and b are stored in that order. */
static inline void wide(int rows, int columns, const double *T, const double *b, const double *z, double *out,
    Lanes (*of)(Lanes))
{
    for (int i = 0; i < rows; i += LANES, T += LANES * columns) {
        Lanes s0 = lanes_at(b + i), s1 = {0}, s2 = {0}, s3 = {0}; /* independent sums, as in `affine` */
        int j = 0;
        for (; j + 3 < columns; j += 4) {
            s0 += lanes_at(T + LANES * j) * z[j];
            s1 += lanes_at(T + LANES * (j + 1)) * z[j + 1];
            s2 += lanes_at(T + LANES * (j + 2)) * z[j + 2];
            s3 += lanes_at(T + LANES * (j + 3)) * z[j + 3];
        }
        for (; j < columns; ++j) s0 += lanes_at(T + LANES * j) * z[j];
        s0 = of((s0 + s1) + (s2 + s3));
        memcpy(out + i, &s0, (size_t)(rows - i < LANES ? rows - i : LANES) * sizeof *out);
    }
}

static inline double quick_tanh(double v)
{
    return lanes_tanh((Lanes){v, v, v, v})[0];
}
#define tanh quick_tanh
#include "$source"
#undef tanh

enum { DROP_OUT, OUTLIER, FROZEN, SATURATED_SENSOR, LATE, STUCK, SATURATED_ACTUATOR, OFFSET, TIME_OUT };
enum { TIMED_OUT = ${NAME}_WARMING_UP + 1 };
enum { PLANT_NX = $plant_nx, CHANNELS = $channels };

static const double input_reach[2 * NU] = {$input_reach}; /* of the plant's actuators: lower ends, then upper ends */

/* Plants in C: next state in place of x, 0 if there is one; outputs; where the controller's washout starts next. */
int ${plant}_step(double *x, const double *u, const double *w);
int ${plant}_output(const double *x, const double *u, double *y);
void ${plant}_restart(double *offset);

typedef struct {
    /* What the loop consists of. Rows of noise, gaps, input errors and disturbances begin with the warm-up. */
    int steps, warm_up, preview, pushed, faults;
    const double *x0, *held, *noise, *input_error, *push, *reference, *signs;
    const unsigned char *missing;
    /* Faults in the order in which they act: sample, kind, channels, and two numbers. */
    const int *fault_at, *fault_kind;
    const unsigned char *fault_on;
    const double *fault_low, *fault_high;
    /* What decides by looking, null where nothing does; 0 is success. */
    int (*measure)(int t, const double *y, double *seen);
    int (*flow)(int t, const double *wanted, const double *last, double *reached);
    int (*plant_step)(double *x, const double *u, const double *w);
    int (*plant_output)(const double *x, const double *u, double *y);
    /* Memory: the controller, and readings before faults. */
    State *state;
    double *history;
    /* Results, one row a step. */
    double *y, *after, *readings, *u, *applied, *x, *disturbance, *predicted, *errors, *intervals, *slack, *seconds;
    int *iterations, *outside;
    signed char *status, *fallback, *certified, *missed;
} Loop;

typedef struct {
    const Loop *of;
    int t, at_sensor, at_actuator; /* samples since the warm-up began; next faults */
    double x[SIZE(PLANT_NX)], before[NU], last[NM];
} Actor;

size_t ${name}_loop_memory(void) { return sizeof(State); }

/* Without a plant in C these are never called. */
static int plant_output(const Actor *a, const double *u, double *y)
{
#if HOOKED_PLANT
    return a->of->plant_output(a->x, u, y);
#else
    return ${plant}_output(a->x, u, y);
#endif
}

static int plant_step(Actor *a, const double *u, const double *w)
{
#if HOOKED_PLANT
    return a->of->plant_step(a->x, u, w);
#else
    const int failed = ${plant}_step(a->x, u, w);
#if RESTARTS
    double offset[NX];
    ${plant}_restart(offset);
    for (int i = 0; i < NX; ++i) washout_start[i] = initial_state[i] + offset[i];
#endif
    return failed;
#endif
}

/* The reading of a sensor fault from the present reading without it. */
static double misread(const Actor *a, int fault, int t, int i, double now)
{
    const Loop *l = a->of;
    const double last = isnan(a->last[i]) ? now : a->last[i];
    const int before = a->t - (int)l->fault_low[fault];
    switch (l->fault_kind[fault]) {
    case DROP_OUT: return NAN;
    case OUTLIER: return now + l->fault_low[fault] * l->signs[t * NM + i];
    case FROZEN: return last;
    case SATURATED_SENSOR: return isnan(now) ? now : clip(now, l->fault_low[fault], l->fault_high[fault]);
    default: return l->history[(before > 0 ? before : 0) * NM + i]; /* LATE */
    }
}

/* Reading of the present sample, with noise, gaps and faults. */
static int measure(Actor *a, const double *y, double *seen)
{
    const Loop *l = a->of;
    const int t = a->t - l->warm_up;
    double *kept = l->history + a->t * NM;
    for (int i = 0; i < NM; ++i) kept[i] = l->missing[a->t * NM + i] ? NAN : y[i] + l->noise[a->t * NM + i];
    if (l->measure) return l->measure(t, kept, seen);
    memcpy(seen, kept, NM * sizeof *seen);
    for (; a->at_sensor < l->faults && l->fault_at[a->at_sensor] <= t; ++a->at_sensor) {
        const int fault = a->at_sensor;
        if (l->fault_at[fault] < t || l->fault_kind[fault] > LATE) continue;
        for (int i = 0; i < NM; ++i)
            if (l->fault_on[fault * CHANNELS + i]) seen[i] = misread(a, fault, t, i, seen[i]);
    }
    memcpy(a->last, seen, sizeof a->last);
    return 0;
}

/* Whether the solver runs out of time at a step. */
static int runs_late(const Actor *a)
{
    const Loop *l = a->of;
    const int t = a->t - l->warm_up;
    for (int fault = a->at_actuator; fault < l->faults && l->fault_at[fault] <= t; ++fault)
        if (l->fault_at[fault] == t && l->fault_kind[fault] == TIME_OUT) return 1;
    return 0;
}

/* Input that reaches the plant: faults of the actuators, their errors, their range. */
static int reach(Actor *a, const double *u, double *reached)
{
    const Loop *l = a->of;
    const int t = a->t - l->warm_up;
    memcpy(reached, u, NU * sizeof *u);
    if (l->flow && l->flow(t, u, a->before, reached)) return 1;
    for (; a->at_actuator < l->faults && l->fault_at[a->at_actuator] <= t; ++a->at_actuator) {
        const int fault = a->at_actuator, kind = l->fault_kind[fault];
        if (l->fault_at[fault] < t || kind < STUCK || kind == TIME_OUT) continue;
        for (int j = 0; j < NU; ++j) {
            if (!l->fault_on[fault * CHANNELS + j]) continue;
            if (kind == STUCK) reached[j] = a->before[j];
            else if (kind == OFFSET) reached[j] += l->fault_low[fault];
            else reached[j] = clip(reached[j], l->fault_low[fault], l->fault_high[fault]);
        }
    }
    for (int j = 0; j < NU; ++j)
        reached[j] = clip(reached[j] + l->input_error[a->t * NU + j], input_reach[j], input_reach[NU + j]);
    return 0;
}

/* Apply a command; `after`: outputs just after it acts. */
static int apply(Actor *a, const double *u, double *after)
{
    double seen[NU];
    if (reach(a, u, seen) || plant_output(a, seen, after)) return 1;
    if (plant_step(a, seen, a->of->push ? a->of->push + a->t * a->of->pushed : 0)) return 1;
    memcpy(a->before, seen, sizeof seen);
    ++a->t;
    return 0;
}

/* Outputs (N + 1, NM) that the model predicts from x under inputs; row k of them is min(k, rows - 1). */
static void foresee(const double *from, const double *u, int rows, double *out)
{
    double x[NX], y[NY], point[NZ];
    memcpy(x, from, sizeof x);
    for (int k = 0; k <= N; ++k) {
        neurons(x, u + (k < rows ? k : rows - 1) * NU, point);
        outputs(point, y);
        memcpy(out + k * NM, y, NM * sizeof *out);
        follower(point, x);
    }
}

/* What the step at t found. */
static void note(const Loop *l, int t, const double *x, const double *seen, const Info *info, const Told *told)
{
    const State *s = l->state;
    double *predicted = l->predicted + t * (N + 1) * NM;
    memcpy(l->x + t * NX, x, NX * sizeof *x);
    memcpy(l->disturbance + t * NM, s->disturbance, NM * sizeof *x);
    foresee(x, told->plan, PLANNED, predicted);
    for (int i = 0; i < (N + 1) * NM; ++i) {
        /* The correction of predictions, which enters their realised errors as well. */
        const double shift = PRACTICAL ? s->disturbance[i % NM] + (PROMISES ? 0 : s->level[i]) : 0;
        predicted[i] += shift;
        l->errors[t * (N + 1) * NM + i] = shift;
    }
#if ERROR_MEMORY
    memcpy(l->intervals + 2 * t * ${NAME}_ERRORS, told->low, sizeof told->low);
    memcpy(l->intervals + (2 * t + 1) * ${NAME}_ERRORS, told->high, sizeof told->high);
#endif
    l->slack[t] = told->slack;
    l->iterations[t] = info->iterations;
    l->status[t] = (signed char)(told->late && info->status == ${NAME}_MAX_ITERATIONS ? TIMED_OUT : info->status);
    l->fallback[t] = (signed char)info->fallback;
    l->certified[t] = (signed char)info->certified;
    l->outside[t] = told->now;
    for (int i = 0; i < NM; ++i) l->missed[t * NM + i] = !isfinite(seen[i]);
}

/* Errors of predictions from each estimate under the inputs commanded since; NaN after the end. */
static void realise(const Loop *l)
{
    double predicted[(N + 1) * NM];
    for (int t = 0; t < l->steps; ++t) {
        foresee(l->x + t * NX, l->u + t * NU, l->steps - t, predicted);
        for (int i = 0; i < (N + 1) * NM; ++i) {
            double *error = l->errors + t * (N + 1) * NM + i;
            const int at = t + i / NM;
            *error = at > l->steps ? NAN : l->y[at * NM + i % NM] - (predicted[i] + *error);
        }
    }
}

static double clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Run one loop; 0 if it went to its end. */
int ${name}_loop(const Loop *l)
{
    Actor actor = {l, 0, 0, 0, {0}, {0}, {0}}, *a = &actor;
    double y[NY], after[NY], seen[NM], rows[(N + 1) * NM];
    memcpy(a->x, l->x0, PLANT_NX * sizeof *a->x);
    memcpy(a->before, l->held, sizeof a->before);
    for (int i = 0; i < NM; ++i) a->last[i] = NAN;
#if RESTARTS
    memcpy(washout_start, initial_state, sizeof washout_start);
#endif
    ${name}_init(l->state);
    while (a->t < l->warm_up) {
        if (plant_output(a, a->before, y) || measure(a, y, seen)) return 1;
        ${name}_record(l->state, seen, l->held);
        if (apply(a, l->held, after)) return 1;
    }
    for (int t = 0; t < l->steps; ++t) {
        Told told = {0};
        Info info;
        double x[NX], began;
        const double *wanted = l->reference + t * NM;
        if (plant_output(a, a->before, y) || measure(a, y, seen)) return 1;
        told.late = runs_late(a);
        for (int k = 0; k <= N && !l->preview; ++k) memcpy(rows + k * NM, wanted, NM * sizeof *wanted);
        memcpy(x, l->state->x, sizeof x);
        began = clock_now();
        decide(l->state, seen, l->preview ? wanted : rows, 0, NAN, l->u + t * NU, &info, &told);
        l->seconds[t] = clock_now() - began;
        note(l, t, x, seen, &info, &told);
        memcpy(l->y + t * NM, y, NM * sizeof *y);
        memcpy(l->readings + t * NM, seen, NM * sizeof *seen);
        if (apply(a, l->u + t * NU, l->after + t * NM)) return 1;
        memcpy(l->applied + t * NU, a->before, NU * sizeof *a->before);
    }
    if (plant_output(a, a->before, l->y + l->steps * NM)) return 1;
    realise(l);
    return 0;
}
