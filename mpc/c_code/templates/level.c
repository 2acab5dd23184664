/* Level correction of the predictions for offset-free tracking, as mpc/control/offset_free.py: rows k = 0..N and that
   of steady states in s->level, from the model that is simulated in parallel to the observer. */
static void correct_level(State *s, const double *held)
{
    double x[2][NX], y[2][NY], first[2][NY], point[NZ];
    for (int i = 0; i < NX; ++i)
        if (!isfinite(s->x[i])) return;
    memcpy(x[0], s->beside, sizeof x[0]);
    memcpy(x[1], s->x, sizeof x[1]);
    for (int k = 0; FORGETS && k <= N; ++k) {
        for (int run = 0; run < 2; ++run) {
            neurons(x[run], held, point);
            outputs(point, y[run]);
            follower(point, x[run]);
            if (k == 0) memcpy(first[run], y[run], sizeof y[run]);
        }
        for (int i = 0; i < NM; ++i) {
            const double away = first[1][i] - first[0][i];
            const double moved = y[0][i] - first[0][i] - (y[1][i] - first[1][i]);
            double *row = s->level + k * NM + i, *steady = s->level + (N + 1) * NM + i;
            *row += DISTURBANCE_GAIN * ((TERMINAL && k == N ? away : moved) - *row);
            if (k == N) *steady += DISTURBANCE_GAIN * (away - *steady);
        }
    }
}
