/* Model predictive controller, written by controlrnn $version.

   All numbers come from these sources (SHA-256):
$digests
   Promise: $promise.
   Arithmetic: all numbers are doubles (float64), rounded to nearest; not for -ffast-math or code on floats.

   C99 and the maths library; no memory but ${name}_state ($memory bytes, where doubles have 8 and ints 4) and the
   stack, no clock, no files. Physical units; sample time ${NAME}_DT
   seconds. Compiled with -D${NAME}_SELF_TEST the source is a program that repeats a recorded loop and exits with 0
   where it finds the same inputs. */
#ifndef ${NAME}_H
#define ${NAME}_H

#define ${NAME}_NX $nx
#define ${NAME}_NU $nu
#define ${NAME}_NY $measured /* outputs */
#define ${NAME}_NL $ny /* outputs of plans: just before and, for models with feedthrough, just after each input */
#define ${NAME}_NZ $nz /* state, inputs and neurons */
#define ${NAME}_NV $nv_size
#define ${NAME}_WIDER $wider /* the larger one of NV and NL */
#define ${NAME}_HORIZON $horizon
#define ${NAME}_INPUTS $inputs /* inputs of a plan; the last one is held */
#define ${NAME}_PLANNED $planned /* inputs of one that stands in: with move limits it may go on after those */
#define ${NAME}_DT $dt
#define ${NAME}_MODEL_DIGEST "$digest"
#define ${NAME}_TIGHTENING_DIGEST "$tightening_digest"
#define ${NAME}_VARIABLES (${NAME}_INPUTS * ${NAME}_NU)
#define ${NAME}_ROWS $rows /* output, terminal and move limits, at least 1 */
#define ${NAME}_TOGETHER 4 /* samples whose outputs the solver takes together */
#define ${NAME}_RECORD $record /* inputs that the observer stores, at least 1 */
#define ${NAME}_ERROR_MEMORY $error_memory /* whether limits learn from measurements */
#define ${NAME}_ERRORS $errors /* size of the error intervals that they learn, at least 1 */

#ifdef __cplusplus
extern "C" {
#endif

/* Status of the solve of a step. */
typedef enum {
    ${NAME}_SOLVED,
    ${NAME}_MAX_ITERATIONS,
    ${NAME}_INFEASIBLE,
    ${NAME}_FAILED,
    ${NAME}_WARMING_UP
} ${name}_status;

/* Source of the input where there is no solution. */
typedef enum { ${NAME}_NONE, ${NAME}_PLAN, ${NAME}_LEAST, ${NAME}_STEADY, ${NAME}_SAFE } ${name}_fallback;

/* Premises that can be contradicted, as bits. */
typedef enum {
    ${NAME}_BROKEN_INPUTS = 1,
    ${NAME}_BROKEN_ACTUATORS = 2,
    ${NAME}_BROKEN_TIME = 4,
    ${NAME}_BROKEN_READINGS = 8,
    ${NAME}_BROKEN_INNOVATION = 16,
    ${NAME}_BROKEN_MODEL_ERROR = 32,
    ${NAME}_BROKEN_DRIFT = 64,
    ${NAME}_BROKEN_REGION = 128,
    ${NAME}_BROKEN_COVERAGE = 256,
    ${NAME}_BROKEN_RANGES = 512,
    ${NAME}_BROKEN_MOVES = 1024
} ${name}_premise;

typedef struct {
    ${name}_status status;
    ${name}_fallback fallback;
    int iterations; /* of the solver */
    int certified;  /* whether the certified error of the state estimate holds at this step */
    int feasible;   /* whether the plan keeps all tightened limits, and ends in the terminal set if there is one */
    int inside_after; /* first sample ahead from which on the plan keeps the tightened limits; HORIZON + 1: none */
    int contradictions; /* number of readings that contradict earlier ones or the declared bounds */
    int broken;     /* premises that are contradicted, or were and still have an effect: the sum of their bits */
    double cost;    /* objective, slack included; NaN unless solved */
} ${name}_info;

$quadratic
/* Inputs of a plan with its simulation, violations and cost, in the solver's units. */
typedef struct {
    double z[${NAME}_VARIABLES], points[(${NAME}_HORIZON + 1) * ${NAME}_NZ];
    double error[(${NAME}_HORIZON + 1) * ${NAME}_NL], y[(${NAME}_HORIZON + 1) * ${NAME}_NL];
    double excess[${NAME}_ROWS], cost;
    double gap[${NAME}_NX], share; /* end of the plan less the steady state; their distance in radii */
} ${name}_trial;

/* Plan that stands in for a solution, with its violation of limits, rank by rank; below 0: none yet. */
typedef struct {
    double u[${NAME}_PLANNED * ${NAME}_NU], violation[$ranks];
    int feasible, inside_after;
    ${name}_fallback fallback;
} ${name}_stand_in;

/* The controller: its state, then scratch memory. It contains no pointers: a copy of it is a saved state, from which
   the same binary goes on with bitwise the same results. */
typedef struct {
    double x[${NAME}_NX];           /* estimate for the coming sample */
    double disturbance[${NAME}_NY]; /* estimate of the output disturbance */
    double beside[${NAME}_NX];      /* state of the parallel model, without measurements, for the coming sample */
    double level[(${NAME}_HORIZON + 2) * ${NAME}_NY]; /* level correction of predictions, and of steady states */
    double previous[${NAME}_NU];    /* last input */
    double plan[${NAME}_PLANNED * ${NAME}_NU]; /* last solution */
    double record[${NAME}_RECORD * ${NAME}_NU];
    double bound, beside_bound; /* on the errors of x, in the observer's metric, and of beside, in the model's */
    /* Where limits learn from measurements: ends of what errors of predictions from x lie in, for the samples 0 to
       ${NAME}_HORIZON ahead, and outputs whose last measurement contradicted that. */
    double error_low[${NAME}_ERRORS], error_high[${NAME}_ERRORS];
    int contradictions;
    int impossible; /* number of readings of the last sample that were not used: innovation above its certified bound */
    double set_point[${NAME}_NY]; /* last known set point */
    /* Premises contradicted now, earlier with a lasting effect, and at the last sample; its time stamp. */
    int now, lasting, reacting, has_time, wide;
    double time;
    /* Input before the one that was checked against the region of the calibration, and whether that was done. */
    double moved_from[${NAME}_NU];
    int has_moved_from, region_checked;
    /* Inputs in a row between which all moves were slow, until now and before the last, and the last two of them. */
    int slow, slow_before;
    double slow_from[${NAME}_NU], slow_last[${NAME}_NU];
    /* Counted coverage: stretches, how many of them were outside, and how many more nobody saw; the evidence against
       what was promised, and the stretch that is under way. */
    int stretches, missed, unseen, stretch_steps, stretch_outside;
    double evidence, stretch_seen;
    /* Bounds on the model's state after inputs outside the range: see mpc/observers/straying.py. */
    double z[${NAME}_NX], away, excess;
    int astray, clean;
    int estranged; /* whether readings have led x further from beside than everything declared allows */
    /* What was before the last sample, to take it in again once it is known what acted. */
    double undo_x[${NAME}_NX], undo_beside[${NAME}_NX], undo_z[${NAME}_NX], undo_y[${NAME}_NY];
    double undo_bound, undo_beside_bound, undo_away, undo_excess;
    int undo_estranged, undo_astray, undo_clean, undo_seen, can_undo, doubted;
    int has_set_point, has_disturbance, has_previous, has_plan, age, seen;

    double before[${NAME}_NU], reference[(${NAME}_HORIZON + 1) * ${NAME}_NL];
    double low[${NAME}_ROWS], high[${NAME}_ROWS]; /* output limits, scaled */
    ${name}_trial trials[2], best;
    ${name}_stand_in soonest[$soonest]; /* of least violation among those inside from a sample on */
    double slope[${NAME}_NV], V[${NAME}_NV * (${NAME}_NX + ${NAME}_NU)];
    double W[${NAME}_WIDER * (${NAME}_NX + ${NAME}_NU)];
    double Jx[${NAME}_NX * (${NAME}_NX + ${NAME}_NU)], Jy[${NAME}_NL * (${NAME}_NX + ${NAME}_NU)];
    double Z[${NAME}_NX * ${NAME}_VARIABLES], Znext[${NAME}_NX * ${NAME}_VARIABLES];
    double rows[${NAME}_TOGETHER * ${NAME}_NL * ${NAME}_VARIABLES];
    /* The recursion of the Hessian: form of a sample's state and input, and what it is made of. */
    double form[(${NAME}_NX + ${NAME}_NU) * (${NAME}_NX + ${NAME}_NU)], stage[${NAME}_NX * (${NAME}_NX + ${NAME}_NU)];
    double carried[${NAME}_NX * (${NAME}_NX + ${NAME}_NU)], upwards[${NAME}_NU * (${NAME}_NX + ${NAME}_NU)];
    double gains[${NAME}_VARIABLES * (${NAME}_NX + ${NAME}_NU)];
    double outwards[${NAME}_NX];
    double bend[(${NAME}_HORIZON + 1) * ${NAME}_NV];
    double H[${NAME}_VARIABLES * ${NAME}_VARIABLES], g[${NAME}_VARIABLES], C[${NAME}_ROWS * ${NAME}_VARIABLES];
    double lower[${NAME}_VARIABLES + ${NAME}_ROWS], upper[${NAME}_VARIABLES + ${NAME}_ROWS], prices[${NAME}_ROWS];
    /* Step and multipliers of the last QP, and the step's correction. */
    double d[${NAME}_VARIABLES], p[${NAME}_VARIABLES], multipliers[${NAME}_ROWS];
    double square[${NAME}_NX * ${NAME}_NX], gain[${NAME}_NX * ${NAME}_NU];
    ${name}_qp qp;
} ${name}_state;

/* Initialise, or reset to the initial state. */
void ${name}_init(${name}_state *state);

/* Perform one control step: choose the next input.
   y: measurement at this sample, NaN where missing.   reference: wanted outputs, held over the horizon.
   u: the input to apply now.   info: may be null. */
void ${name}_step(${name}_state *state, const double y[${NAME}_NY], const double reference[${NAME}_NY],
    double u[${NAME}_NU], ${name}_info *info);

/* As ${name}_step with known future references: one row for each of the samples 0 to ${NAME}_HORIZON ahead. */
void ${name}_step_preview(${name}_state *state, const double y[${NAME}_NY],
    const double reference[(${NAME}_HORIZON + 1) * ${NAME}_NY], double u[${NAME}_NU], ${name}_info *info);

/* As ${name}_step_preview, with read-back and time stamp. applied: the input that acted since the last sample,
   ${NAME}_NU numbers; null, or NaN where it is not known, stands for the command. time: of this sample in seconds;
   NaN: it came when due. */
void ${name}_step_watched(${name}_state *state, const double y[${NAME}_NY],
    const double reference[(${NAME}_HORIZON + 1) * ${NAME}_NY], const double *applied, double time, double u[${NAME}_NU],
    ${name}_info *info);

/* Update the estimates with a sample whose input u the controller did not choose (warm-up, manual operation); NaN where it
   is not known: estimates go on with the input before, and are certified once that does not matter. */
void ${name}_record(${name}_state *state, const double y[${NAME}_NY], const double u[${NAME}_NU]);

/* Bumpless start: the input u that acts now is held while warming up, and moves are counted from it; NaN where it is not
   known. */
void ${name}_start_from(${name}_state *state, const double u[${NAME}_NU]);

/* Reset the estimates and what limits have learnt, e.g. after wrong readings; the last input is held meanwhile. */
void ${name}_clear_estimate(${name}_state *state);

/* The model: next state (x_next may be x) and outputs at state x and input u. */
void ${name}_model_step(const double x[${NAME}_NX], const double u[${NAME}_NU], double x_next[${NAME}_NX]);
void ${name}_model_output(const double x[${NAME}_NX], const double u[${NAME}_NU], double y[${NAME}_NL]);

#ifdef __cplusplus
}
#endif
#endif
