/* FMI 2.0 co-simulation of the discrete-time model in ${name}.c, written by controlrnn.

   The model's state moves at its own samples, every ${NAME}_DT seconds from the start time on. An input that is set at a
   sample is held until the next one; one that is set between two samples acts from the next one on. Communication steps
   may have any length. Outputs are those of the present state and of the input that acts. */
#include "${name}.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* The types of the standard (FMI 2.0.4, section 2.1.2), as far as they are used. */
typedef void *fmi2Component;
typedef void *fmi2ComponentEnvironment;
typedef void *fmi2FMUstate;
typedef unsigned int fmi2ValueReference;
typedef double fmi2Real;
typedef int fmi2Integer;
typedef int fmi2Boolean;
typedef char fmi2Char;
typedef const fmi2Char *fmi2String;
typedef char fmi2Byte;
typedef enum { fmi2OK, fmi2Warning, fmi2Discard, fmi2Error, fmi2Fatal, fmi2Pending } fmi2Status;
typedef enum { fmi2ModelExchange, fmi2CoSimulation } fmi2Type;
typedef int fmi2StatusKind;
typedef struct {
    void (*logger)(fmi2ComponentEnvironment, fmi2String, fmi2Status, fmi2String, fmi2String, ...);
    void *(*allocateMemory)(size_t, size_t);
    void (*freeMemory)(void *);
    void (*stepFinished)(fmi2ComponentEnvironment, fmi2Status);
    fmi2ComponentEnvironment environment;
} fmi2CallbackFunctions;

enum { NX = ${nx}, NU = ${nu}, NY = ${ny}, FIRST_OUTPUT = NU, FIRST_STATE = NU + NY, VARIABLES = NU + NY + NX };
#define NEAR 1e-6 /* of a sample: times that are one and the same */

typedef struct {
    double x[NX], first[NX];    /* present and initial state */
    double u[NU + 1], held[NU + 1]; /* inputs as they were set last, and as they act */
    double start, samples;      /* start time, and how many samples have passed since */
    int running;
    char name[128];
    const fmi2CallbackFunctions *call;
} Model;

static const double FIRST[NX] = {${first}};

static fmi2Status refuse(Model *m, const char *why)
{
    if (m->call && m->call->logger)
        m->call->logger(m->call->environment, m->name, fmi2Error, "logStatusError", "%s", why);
    return fmi2Error;
}

static void restart(Model *m)
{
    memcpy(m->first, FIRST, sizeof FIRST);
    memcpy(m->x, FIRST, sizeof FIRST);
    memset(m->u, 0, sizeof m->u);
    memset(m->held, 0, sizeof m->held);
    m->start = m->samples = 0;
    m->running = 0;
}

EXPORT const char *fmi2GetTypesPlatform(void) { return "default"; }
EXPORT const char *fmi2GetVersion(void) { return "2.0"; }

EXPORT fmi2Status fmi2SetDebugLogging(fmi2Component c, fmi2Boolean on, size_t n, const fmi2String categories[])
{
    (void)c, (void)on, (void)n, (void)categories;
    return fmi2OK;
}

EXPORT fmi2Component fmi2Instantiate(fmi2String name, fmi2Type type, fmi2String guid, fmi2String resources,
                                     const fmi2CallbackFunctions *call, fmi2Boolean visible, fmi2Boolean logging)
{
    (void)resources, (void)visible, (void)logging;
    if (type != fmi2CoSimulation || !guid || strcmp(guid, "${guid}") != 0) return NULL;
    Model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->call = call;
    if (name) strncpy(m->name, name, sizeof m->name - 1);
    restart(m);
    return m;
}

EXPORT void fmi2FreeInstance(fmi2Component c) { free(c); }

EXPORT fmi2Status fmi2SetupExperiment(fmi2Component c, fmi2Boolean given, fmi2Real tolerance, fmi2Real start,
                                      fmi2Boolean ends, fmi2Real stop)
{
    (void)given, (void)tolerance, (void)ends, (void)stop;
    ((Model *)c)->start = start;
    return fmi2OK;
}

EXPORT fmi2Status fmi2EnterInitializationMode(fmi2Component c) { (void)c; return fmi2OK; }

EXPORT fmi2Status fmi2ExitInitializationMode(fmi2Component c)
{
    Model *m = c;
    memcpy(m->x, m->first, sizeof m->x);
    memcpy(m->held, m->u, sizeof m->u);
    m->samples = 0;
    m->running = 1;
    return fmi2OK;
}

EXPORT fmi2Status fmi2Terminate(fmi2Component c) { ((Model *)c)->running = 0; return fmi2OK; }

EXPORT fmi2Status fmi2Reset(fmi2Component c) { restart(c); return fmi2OK; }

EXPORT fmi2Status fmi2GetReal(fmi2Component c, const fmi2ValueReference which[], size_t n, fmi2Real value[])
{
    Model *m = c;
    double y[NY];
    ${name}_output(m->running ? m->x : m->first, m->running ? m->held : m->u, y);
    for (size_t i = 0; i < n; ++i) {
        if (which[i] < FIRST_OUTPUT) value[i] = m->u[which[i]];
        else if (which[i] < FIRST_STATE) value[i] = y[which[i] - FIRST_OUTPUT];
        else if (which[i] < VARIABLES) value[i] = m->first[which[i] - FIRST_STATE];
        else return refuse(m, "no such variable");
    }
    return fmi2OK;
}

EXPORT fmi2Status fmi2SetReal(fmi2Component c, const fmi2ValueReference which[], size_t n, const fmi2Real value[])
{
    Model *m = c;
    for (size_t i = 0; i < n; ++i) {
        if (!isfinite(value[i])) return refuse(m, "a value that is not finite");
        if (which[i] < FIRST_OUTPUT) m->u[which[i]] = value[i];
        else if (which[i] >= FIRST_STATE && which[i] < VARIABLES && !m->running) m->first[which[i] - FIRST_STATE] = value[i];
        else return refuse(m, "only inputs can be set, and initial states before the simulation begins");
    }
    return fmi2OK;
}

EXPORT fmi2Status fmi2DoStep(fmi2Component c, fmi2Real time, fmi2Real length, fmi2Boolean settled)
{
    Model *m = c;
    (void)settled;
    if (!m->running) return refuse(m, "the simulation has not begun");
    if (!(length >= 0) || !isfinite(time + length)) return refuse(m, "a communication step that is negative or not finite");
    double from = (time - m->start) / ${NAME}_DT, to = (time + length - m->start) / ${NAME}_DT;
    if (fabs(from - m->samples) <= NEAR) memcpy(m->held, m->u, sizeof m->u); /* set at a sample */
    while (m->samples + 1 <= to + NEAR) {
        ${name}_step(m->x, m->held, m->x);
        m->samples += 1;
        memcpy(m->held, m->u, sizeof m->u);
    }
    return fmi2OK;
}

EXPORT fmi2Status fmi2CancelStep(fmi2Component c) { return refuse(c, "steps are not cancelled"); }

/* What the model description says is not there. */
#define NO_VALUES(Kind)                                                                                       \
    EXPORT fmi2Status fmi2Get##Kind(fmi2Component c, const fmi2ValueReference w[], size_t n, fmi2##Kind v[])        \
    { (void)w, (void)v; return n ? refuse(c, "there are real variables only") : fmi2OK; }                     \
    EXPORT fmi2Status fmi2Set##Kind(fmi2Component c, const fmi2ValueReference w[], size_t n, const fmi2##Kind v[])  \
    { (void)w, (void)v; return n ? refuse(c, "there are real variables only") : fmi2OK; }
NO_VALUES(Integer)
NO_VALUES(Boolean)
NO_VALUES(String)

EXPORT fmi2Status fmi2GetFMUstate(fmi2Component c, fmi2FMUstate *state)
{
    if (!*state && !(*state = calloc(1, sizeof(Model)))) return refuse(c, "no memory");
    memcpy(*state, c, sizeof(Model));
    return fmi2OK;
}

EXPORT fmi2Status fmi2SetFMUstate(fmi2Component c, fmi2FMUstate state) { memcpy(c, state, sizeof(Model)); return fmi2OK; }

EXPORT fmi2Status fmi2FreeFMUstate(fmi2Component c, fmi2FMUstate *state)
{
    (void)c;
    free(*state);
    *state = NULL;
    return fmi2OK;
}

EXPORT fmi2Status fmi2SerializedFMUstateSize(fmi2Component c, fmi2FMUstate state, size_t *size)
{ (void)state, (void)size; return refuse(c, "states are not serialised"); }
EXPORT fmi2Status fmi2SerializeFMUstate(fmi2Component c, fmi2FMUstate state, fmi2Byte bytes[], size_t size)
{ (void)state, (void)bytes, (void)size; return refuse(c, "states are not serialised"); }
EXPORT fmi2Status fmi2DeSerializeFMUstate(fmi2Component c, const fmi2Byte bytes[], size_t size, fmi2FMUstate *state)
{ (void)bytes, (void)size, (void)state; return refuse(c, "states are not serialised"); }
EXPORT fmi2Status fmi2GetDirectionalDerivative(fmi2Component c, const fmi2ValueReference a[], size_t n,
                                               const fmi2ValueReference b[], size_t k, const fmi2Real d[], fmi2Real v[])
{ (void)a, (void)n, (void)b, (void)k, (void)d, (void)v; return refuse(c, "there are no derivatives"); }
EXPORT fmi2Status fmi2SetRealInputDerivatives(fmi2Component c, const fmi2ValueReference w[], size_t n,
                                              const fmi2Integer order[], const fmi2Real v[])
{ (void)w, (void)n, (void)order, (void)v; return refuse(c, "inputs are held, not interpolated"); }
EXPORT fmi2Status fmi2GetRealOutputDerivatives(fmi2Component c, const fmi2ValueReference w[], size_t n,
                                               const fmi2Integer order[], fmi2Real v[])
{ (void)w, (void)n, (void)order, (void)v; return refuse(c, "there are no derivatives"); }
EXPORT fmi2Status fmi2GetStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Status *v)
{ (void)c, (void)kind, (void)v; return fmi2Discard; }
EXPORT fmi2Status fmi2GetRealStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Real *v)
{ (void)c, (void)kind, (void)v; return fmi2Discard; }
EXPORT fmi2Status fmi2GetIntegerStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Integer *v)
{ (void)c, (void)kind, (void)v; return fmi2Discard; }
EXPORT fmi2Status fmi2GetBooleanStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Boolean *v)
{ (void)c, (void)kind, (void)v; return fmi2Discard; }
EXPORT fmi2Status fmi2GetStringStatus(fmi2Component c, const fmi2StatusKind kind, fmi2String *v)
{ (void)c, (void)kind, (void)v; return fmi2Discard; }
