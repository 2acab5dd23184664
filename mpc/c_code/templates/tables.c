/* Model predictive controller, written by controlrnn $version; see the header for the sources of its numbers. */
#include "$header"

#include <math.h>
#include <string.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)
#error "missing readings are NaN, and sums are rounded as written: compile without -ffast-math, -Ofast, /fp:fast"
#endif

#define SIZE(n) ((n) > 0 ? (n) : 1)
#define PLAIN 0
#define WASHOUT 1
#define INNOVATION 2
#define OBSERVER $observer
#define TERMINAL_SET $terminal
#define ERROR_MEMORY $error_memory
#define REGION $region
#define COVERAGE $coverage
#define RANGES $ranges
#define MOVES $moves /* inputs that have to have moved slowly; 0: any may be made */

enum {
    NX = $nx, NU = $nu, NV = $nv, N = $horizon, M = $inputs, PLANNED = $planned,
    NY = $ny,             /* outputs of plans: just before and, for models with feedthrough, just after each input */
    NM = $measured,       /* measured outputs: those just before */
    STEPS = $steps,       /* samples before the observer's estimate may be used */
    LAYERS = $layers,     /* layers of neurons */
    LIMITED = $limited,   /* outputs with limits */
    BOUNDED = $bounded,   /* inputs with move limits */
    MAX_ITERATIONS = $max_iterations, RTI = $rti, CERTIFIED = $certified,
    STEEP = $steep,       /* whether limits are priced high: hard ones, or ranks */
    RANKS = $ranks,       /* of limits: hard before soft ones, the first priority before the next */
    RETURNS = $returns,   /* whether hard limits, of one rank, are come back to in least time */
    PRACTICAL = $practical,
    PROMISES = $promises, /* whether the tightening promises anything */
    FORGETS = $forgets,   /* whether the model forgets its initial state */
    TERMINAL = TERMINAL_SET,
    FIRST = $first,       /* first sample with output limits */
    MEMORY_STEPS = $memory_steps, /* samples that a measured error is used for */
    LEARNING = $learning, /* number of samples, from 0 on, whose limits learn from measurements */
    STATES_ARE_NEURONS = $states_are_neurons /* x+ = w */
};
typedef ${name}_qp Quadratic;
typedef ${name}_trial Trial;
typedef ${name}_state State;
typedef ${name}_status Status;
typedef ${name}_fallback Fallback;
typedef ${name}_info Info;

/* Reactions to contradictions in order of strength, and bit numbers of premises. */
enum { $watching };

enum { SETTLE = $SETTLE, NEWTON = $NEWTON, NEWTON_NEAR = $NEWTON_NEAR };

$scalars
$tables
static const double *const layer_matrix[SIZE(LAYERS)] = {$layer_matrices};

