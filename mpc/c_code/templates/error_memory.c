#if ERROR_MEMORY
/* Intervals of the errors of predictions from the present estimate, as mpc/tightening/learnt_errors.py: rows k = 0..N
   of s->error_low and s->error_high. Sums are formed as there, so that both give the same numbers. */

/* Set the intervals to those without measurements. */
static void forget_errors(State *s)
{
    for (int i = 0; i < (N + 1) * NM; ++i) {
        s->error_low[i] = -memory_absolute[i];
        s->error_high[i] = memory_absolute[i];
    }
}

/* Update the intervals with the present output errors; those that are not finite are missing. */
static void see_errors(State *s, const double *error, int certified)
{
    s->contradictions = 0;
    if (!certified) {
        forget_errors(s);
        return;
    }
    for (int i = 0; i < NM; ++i) {
        const double room = MEASURED * memory_absolute[i];
        int agrees = error[i] >= s->error_low[i] - room && error[i] <= s->error_high[i] + room;
        if (!isfinite(error[i])) continue;
        for (int k = 1; k <= MEMORY_STEPS; ++k) {
            const double around = memory_around[(k - 1) * NM + i];
            agrees = agrees && fmax(s->error_low[k * NM + i], error[i] - around)
                                   <= fmin(s->error_high[k * NM + i], error[i] + around);
        }
        s->contradictions += !agrees;
        for (int k = 1; k <= MEMORY_STEPS; ++k) {
            const double around = memory_around[(k - 1) * NM + i], widest = memory_absolute[k * NM + i];
            double *low = s->error_low + k * NM + i, *high = s->error_high + k * NM + i;
            /* On contradiction either the interval or this measurement is wrong: their hull holds in both cases. */
            *low = agrees ? fmax(*low, error[i] - around) : clip(fmin(*low, error[i] - around), -widest, widest);
            *high = agrees ? fmin(*high, error[i] + around) : clip(fmax(*high, error[i] + around), -widest, widest);
        }
    }
}

/* Shift the intervals to the next sample, valid if the certified error holds for the old and the new estimate: those of
   k + 1 steps ahead, widened by the effect of the estimate's jump, become those of k. */
static void shift_errors(State *s)
{
    for (int i = 0; i < N * NM; ++i) {
        s->error_low[i] = clip(s->error_low[i + NM] - memory_jump[i], -memory_absolute[i], memory_absolute[i]);
        s->error_high[i] = clip(s->error_high[i + NM] + memory_jump[i], -memory_absolute[i], memory_absolute[i]);
    }
    for (int i = N * NM; i < (N + 1) * NM; ++i) {
        s->error_low[i] = -memory_absolute[i];
        s->error_high[i] = memory_absolute[i];
    }
}
#endif

