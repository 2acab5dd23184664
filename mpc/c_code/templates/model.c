/* The model's Jacobians and steady states. */

/* Derivatives of neuron i by its argument, from its value w. */
$derivatives
enum { NS = NX + NU };

/* The state after a point. */
static void follower(const double *point, double *x)
{
    if (STATES_ARE_NEURONS) memcpy(x, point + NS, NX * sizeof *x);
    else next_state(point, x);
}

/* Jacobians by (x, u) at a point: V and W of the neurons' inputs and outputs, Jx of x+, Jy of y. */
static void linearise(State *s, const double *point)
{
    for (int l = 0; l < LAYERS; ++l)
        for (int i = layer_start[l]; i < layer_start[l + 1]; ++i) {
            const double *row = layer_matrix[l] + (i - layer_start[l]) * (NS + layer_start[l]);
            double *V = s->V + i * NS;
            memcpy(V, row, NS * sizeof *V);
            combine(NS, layer_start[l], row + NS, s->W, NS, V);
            s->slope[i] = derivative(i, point[NS + i]);
            for (int j = 0; j < NS; ++j) s->W[i * NS + j] = s->slope[i] * V[j];
        }
    for (int i = 0; i < NX; ++i) {
        if (STATES_ARE_NEURONS) {
            memcpy(s->Jx + i * NS, s->W + i * NS, NS * sizeof *s->Jx);
            continue;
        }
        memcpy(s->Jx + i * NS, Mx + i * NZ, NS * sizeof *s->Jx);
        combine(NS, NV, Mx + i * NZ + NS, s->W, NS, s->Jx + i * NS);
    }
    for (int i = 0; i < NY; ++i) {
        memcpy(s->Jy + i * NS, My + i * NZ, NS * sizeof *s->Jy);
        if (READ == NZ) combine(NS, NV, My + i * NZ + NS, s->W, NS, s->Jy + i * NS);
    }
}

/* Solve A X = B by Gaussian elimination with pivoting, A (NX, NX), X replacing B (NX, columns); 0 if A is singular. */
static int eliminate(double *A, double *B, int columns)
{
    for (int k = 0; k < NX; ++k) {
        int p = k;
        for (int i = k + 1; i < NX; ++i)
            if (fabs(A[i * NX + k]) > fabs(A[p * NX + k])) p = i;
        if (!(fabs(A[p * NX + k]) > 0)) return 0;
        if (p != k) {
            rotate(NX, 0, 1, A + k * NX, A + p * NX); /* swaps rows, up to a sign that A and B share */
            rotate(columns, 0, 1, B + k * columns, B + p * columns);
        }
        for (int i = k + 1; i < NX; ++i) {
            const double factor = -A[i * NX + k] / A[k * NX + k];
            axpy(NX - k, factor, A + k * NX + k, A + i * NX + k);
            axpy(columns, factor, B + k * columns, B + i * columns);
        }
    }
    for (int k = NX - 1; k >= 0; --k)
        for (int c = 0; c < columns; ++c) {
            for (int j = k + 1; j < NX; ++j) B[k * columns + c] -= A[k * NX + j] * B[j * columns + c];
            B[k * columns + c] /= A[k * NX + k];
        }
    return 1;
}

/* s->square = I - A of the last linearisation, or its transpose. */
static void resolvent(State *s, int transposed)
{
    for (int i = 0; i < NX; ++i)
        for (int j = 0; j < NX; ++j) s->square[i * NX + j] = (i == j) - s->Jx[transposed ? j * NS + i : i * NS + j];
}

static void linearise_at(State *s, const double *x, const double *u)
{
    double point[NZ];
    neurons(x, u, point);
    linearise(s, point);
}

/* Largest absolute value; infinity if there is a NaN. */
static double largest(int n, const double *a)
{
    double most = 0;
    for (int i = 0; i < n; ++i) most = isnan(a[i]) ? INFINITY : larger(fabs(a[i]), most);
    return most;
}

/* change = f(x, u) - x; returns its largest entry relative to that of x. */
static double unrest(const double *x, const double *u, double *change)
{
    ${name}_model_step(x, u, change);
    for (int i = 0; i < NX; ++i) change[i] -= x[i];
    return largest(NX, change) / (1 + largest(NX, x));
}

/* Newton's method for x = f(x, u); 0 if it does not converge. */
static int settle(State *s, const double *u, double *x, int iterations)
{
    double gap[NX];
    for (int k = 0; k < iterations; ++k) {
        if (unrest(x, u, gap) <= 1e-13) return 1;
        linearise_at(s, x, u);
        resolvent(s, 0);
        if (!eliminate(s->square, gap, 1)) return 0;
        for (int i = 0; i < NX; ++i) x[i] += gap[i];
        if (largest(NX, gap) <= 1e-14 * (1 + largest(NX, x))) break;
    }
    return unrest(x, u, gap) <= 1e-9;
}

/* Steady state under a constant input by Newton's method, from x if that is a good guess, or after a free run. */
static int equilibrium(State *s, const double *u, double *x, int guessed)
{
    double start[NX];
    memcpy(start, x, sizeof start);
    if (guessed && settle(s, u, x, NEWTON_NEAR)) return 1;
    memcpy(x, start, sizeof start);
    for (int k = 0; k < SETTLE; ++k) ${name}_model_step(x, u, x);
    return settle(s, u, x, NEWTON);
}
