/* Sequential quadratic programming on the inputs alone (condensing: Bock & Plitt, IFAC 1984), as mpc/condensed.py: the
   same local model, search and stopping rule. Inputs z in half ranges around the middle, outputs in multiples of their
   scale, cost in multiples of the cost scale. The objective with its prices on slack is the merit. */

enum { NS = NX + NU, VARIABLES = M * NU, SOFT_ROWS = N * LIMITED, ROWS = SOFT_ROWS + M * BOUNDED };

static const double RIDGE = $RIDGE;    /* of the Hessian's largest entry: weights may be zero */
static const double FLATTEST = $FLATTEST;  /* least curvature, of the largest, where the Lagrangian's is negative */
static const double SUFFICIENT = $SUFFICIENT; /* share of the predicted decrease that a step has to reach */
static const double SHORTEST = $SHORTEST; /* shorter steps are not tried */
static const double SLOW = $SLOW;       /* a step longer than this share of the one before shows that curvature matters, */
static const double NEAR = $NEAR;       /* and after a step shorter than this it pays anyway */
static const double NOISE = $NOISE;    /* of the cost: a smaller decrease is rounding */
static const int CORRECTIONS = $CORRECTIONS;    /* of a whole step for the curvature of hard limits */
static const double KEPT = $KEPT;      /* hard limits exceeded by more of an output's range: no solution */

static double clip(double value, double low, double high)
{
    return fmin(fmax(value, low), high);
}

static double input_of(const double *z, int k, int j)
{
    return middle[j] + half[j] * z[(k < M ? k : M - 1) * NU + j];
}

/* z_k - z_(k-1) */
static double move_of(const State *s, const double *z, int k, int j)
{
    return z[k * NU + j] - (k ? z[(k - 1) * NU + j] : s->before[j]);
}

/* Follow the model from s->x along trial->z; what is exceeded and what it costs. */
static void follow(const State *s, Trial *trial)
{
    double x[NX], u[NU], sum = 0, slack = 0;
    memcpy(x, s->x, sizeof x);
    for (int k = 0; k <= N; ++k) {
        double *point = trial->points + k * NZ, *y = trial->y + k * NY;
        for (int j = 0; j < NU; ++j) u[j] = input_of(trial->z, k, j);
        neurons(x, u, point);
        affine(NY, NZ, My, by, point, y);
        if (STATES_ARE_NEURONS) memcpy(x, point + NS, sizeof x);
        else affine(NX, NZ, Mx, bx, point, x);
        for (int i = 0; i < NY; ++i) {
            double missed;
            y[i] /= scale[i];
            trial->error[k * NY + i] = y[i] - s->reference[k * NY + i];
            missed = root[k * NY + i] * trial->error[k * NY + i];
            sum += missed * missed;
        }
        for (int i = 0; k && i < LIMITED; ++i) {
            const int row = (k - 1) * LIMITED + i;
            double value = y[limited[i]], over = fmax(value - s->high[row], s->low[row] - value);
            trial->excess[row] = over > 0 || isnan(over) ? over : 0;
            slack += price[i] * trial->excess[row];
        }
    }
    for (int k = 0; k < M; ++k)
        for (int j = 0; j < NU; ++j) {
            double moved = move_root[j] * move_of(s, trial->z, k, j);
            sum += moved * moved;
        }
    trial->cost = 0.5 * sum + slack;
}

/* Jacobians at a point: V and W of the neurons' inputs and outputs, Jx of x+, Jy of y, by (x, u). */
static void linearise(State *s, const double *point)
{
    for (int l = 0; l < LAYERS; ++l)
        for (int i = layer_start[l]; i < layer_start[l + 1]; ++i) {
            const double *row = layer_matrix[l] + (i - layer_start[l]) * (NS + layer_start[l]);
            double *V = s->V + i * NS;
            memcpy(V, row, NS * sizeof *V);
            combine(NS, layer_start[l], row + NS, s->W, NS, V);
            s->slope[i] = derivative(point[NS + i]);
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
        if (OUTPUTS_READ_NEURONS) combine(NS, NV, My + i * NZ + NS, s->W, NS, s->Jy + i * NS);
    }
}

/* out = J Z_k, where Z_k are the derivatives of (x_k, u_k) by the plan's inputs, of which `columns` matter. */
static void times(const State *s, int k, int rows, int columns, const double *J, double *out)
{
    const int at = (k < M ? k : M - 1) * NU, known = (k < M ? k : M) * NU;
    for (int i = 0; i < rows; ++i) {
        double *row = out + i * VARIABLES;
        zero(columns, row);
        combine(known, NX, J + i * NS, s->Z, VARIABLES, row);
        for (int j = 0; j < NU; ++j) row[at + j] += J[i * NS + NX + j] * half[j];
    }
}

/* bend = second derivative, by each neuron's input, of the Lagrangian's terms in the outputs: the adjoint of a run. */
static void bend(State *s, const Trial *trial, const double *multipliers)
{
    double p[NX], back[NX], prices[NY], mu[SIZE(NV)];
    memset(p, 0, sizeof p);
    for (int k = N; k >= 0; --k) {
        const double *w = trial->points + k * NZ + NS;
        for (int i = 0; i < NY; ++i) prices[i] = root[k * NY + i] * root[k * NY + i] * trial->error[k * NY + i];
        for (int i = 0; k && i < LIMITED; ++i) prices[limited[i]] += multipliers[(k - 1) * LIMITED + i];
        for (int i = 0; i < NY; ++i) prices[i] /= scale[i];
        for (int j = 0; j < NV; ++j) {
            mu[j] = 0;
            for (int i = 0; i < NX; ++i) mu[j] += Mx[i * NZ + NS + j] * p[i];
            for (int i = 0; i < NY; ++i) mu[j] += My[i * NZ + NS + j] * prices[i];
        }
        for (int j = 0; j < NX; ++j) {
            back[j] = 0;
            for (int i = 0; i < NX; ++i) back[j] += Mx[i * NZ + j] * p[i];
            for (int i = 0; i < NY; ++i) back[j] += My[i * NZ + j] * prices[i];
        }
        for (int l = LAYERS - 1; l >= 0; --l)
            for (int i = layer_start[l]; i < layer_start[l + 1]; ++i) {
                const double *row = layer_matrix[l] + (i - layer_start[l]) * (NS + layer_start[l]);
                double sent = mu[i] * derivative(w[i]);
                s->bend[k * NV + i] = mu[i] * curvature(w[i]);
                axpy(NX, sent, row, back);
                axpy(layer_start[l], sent, row + NS, mu);
            }
        memcpy(p, back, sizeof p);
    }
}

/* H += sum_k weight_k row_k row_k', upper triangle */
static void add_squares(int n, int rows, const double *weights, const double *X, double *H)
{
    double a[NY + NV];
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < rows; ++k) a[k] = weights[k] * X[k * VARIABLES + i];
        combine(n - i, rows, a, X + i, VARIABLES, H + i * VARIABLES + i);
    }
}

/* H to the nearest matrix with eigenvalues above a share of the largest, by Jacobi's rotations. */
static void make_convex(State *s)
{
    double *A = s->qp.J, *Q = s->qp.R, largest = 0, least, off = 1, all;
    memcpy(A, s->H, sizeof s->H);
    memset(Q, 0, sizeof s->qp.R);
    for (int i = 0; i < VARIABLES; ++i) Q[i * VARIABLES + i] = 1;
    for (int sweep = 0; sweep < 30 && off > 0; ++sweep) {
        off = all = 0;
        for (int i = 0; i < VARIABLES; ++i) {
            off += dot(i, A + i * VARIABLES, A + i * VARIABLES);
            all += A[i * VARIABLES + i] * A[i * VARIABLES + i];
        }
        if (!(off > 1e-30 * all)) break;
        for (int i = 0; i < VARIABLES; ++i)
            for (int j = i + 1; j < VARIABLES; ++j) {
                double a = A[i * VARIABLES + j], t, c, angle;
                if (fabs(a) < 1e-18 * sqrt(all)) continue;
                angle = (A[j * VARIABLES + j] - A[i * VARIABLES + i]) / (2 * a);
                t = (angle < 0 ? -1 : 1) / (fabs(angle) + sqrt(angle * angle + 1));
                c = 1 / sqrt(t * t + 1);
                rotate(VARIABLES, c, -t * c, A + i * VARIABLES, A + j * VARIABLES);
                for (int k = 0; k < VARIABLES; ++k) {
                    double first = A[k * VARIABLES + i], second = A[k * VARIABLES + j];
                    A[k * VARIABLES + i] = c * (first - t * second);
                    A[k * VARIABLES + j] = c * (second + t * first);
                }
                rotate(VARIABLES, c, -t * c, Q + i * VARIABLES, Q + j * VARIABLES);
            }
    }
    for (int i = 0; i < VARIABLES; ++i) largest = fmax(largest, A[i * VARIABLES + i]);
    least = FLATTEST * largest;
    for (int i = 0; i < VARIABLES; ++i) {
        const double missing = least - A[i * VARIABLES + i];
        if (missing > 0) add_squares(VARIABLES, 1, &missing, Q + i * VARIABLES, s->H);
    }
}

static void mirror(double *H)
{
    for (int a = 0; a < VARIABLES; ++a)
        for (int b = 0; b < a; ++b) H[a * VARIABLES + b] = H[b * VARIABLES + a];
}

/* H, g and the rows of C of the output limits. */
static void condense(State *s, const Trial *trial, int curved)
{
    double *G = s->rows, *VZ = s->rows + NY * VARIABLES, weights[NY + NV];
    memset(s->H, 0, sizeof s->H);
    memset(s->g, 0, sizeof s->g);
    memset(s->Z, 0, sizeof s->Z);
    for (int k = 0; k <= N; ++k) {
        const int columns = k < M ? (k + 1) * NU : VARIABLES;
        linearise(s, trial->points + k * NZ);
        times(s, k, NY, columns, s->Jy, G);
        for (int i = 0; i < NY; ++i) {
            weights[i] = root[k * NY + i] * root[k * NY + i];
            for (int a = 0; a < columns; ++a) G[i * VARIABLES + a] /= scale[i];
            axpy(columns, weights[i] * trial->error[k * NY + i], G + i * VARIABLES, s->g);
        }
        for (int i = 0; k && i < LIMITED; ++i) {
            double *row = s->C + ((k - 1) * LIMITED + i) * VARIABLES;
            memcpy(row, G + limited[i] * VARIABLES, (size_t)columns * sizeof *row);
            memset(row + columns, 0, (size_t)(VARIABLES - columns) * sizeof *row);
        }
        if (curved) {
            times(s, k, NV, columns, s->V, VZ);
            memcpy(weights + NY, s->bend + k * NV, NV * sizeof *weights);
        }
        add_squares(columns, NY + (curved ? NV : 0), weights, G, s->H);
        if (k < N) {
            times(s, k, NX, columns, s->Jx, s->Znext);
            for (int i = 0; i < NX; ++i)
                memcpy(s->Z + i * VARIABLES, s->Znext + i * VARIABLES, (size_t)columns * sizeof *s->Z);
        }
    }
}

/* Limits of the QP's rows at a trial. */
static void limit_rows(State *s, const Trial *trial)
{
    for (int row = 0; row < SOFT_ROWS; ++row) {
        const double reached = trial->y[(row / SIZE(LIMITED) + 1) * NY + limited[row % SIZE(LIMITED)]];
        s->lower[VARIABLES + row] = s->low[row] - reached;
        s->upper[VARIABLES + row] = s->high[row] - reached;
    }
    for (int row = 0; row < M * BOUNDED; ++row) {
        const int j = bounded[row % SIZE(BOUNDED)];
        const double moved = move_of(s, trial->z, row / SIZE(BOUNDED), j);
        /* Zero stays admissible: the input before may be one that its limits forbid to follow. */
        s->lower[VARIABLES + SOFT_ROWS + row] = fmin(-move_limit[j] - moved, 0);
        s->upper[VARIABLES + SOFT_ROWS + row] = fmax(move_limit[j] - moved, 0);
    }
}

/* The convex QP at a trial; with the Lagrangian's curvature where multipliers are given. */
static void local_model(State *s, const Trial *trial, const double *multipliers)
{
    double most = 0;
    if (multipliers) bend(s, trial, multipliers);
    condense(s, trial, multipliers != 0);
    for (int k = 0; k < M; ++k)
        for (int j = 0; j < NU; ++j) {
            const int a = k * NU + j;
            const double weight = move_root[j] * move_root[j];
            const int later = k + 1 < M;
            s->H[a * VARIABLES + a] += (later ? 2 : 1) * weight;
            s->g[a] += weight * move_of(s, trial->z, k, j);
            if (later) {
                s->H[a * VARIABLES + a + NU] -= weight;
                s->g[a] -= weight * move_of(s, trial->z, k + 1, j);
            }
        }
    mirror(s->H);
    if (multipliers) {
        memcpy(s->qp.R, s->H, sizeof s->H);
        if (!cholesky(VARIABLES, s->qp.R)) {
            make_convex(s);
            mirror(s->H);
        }
    }
    for (int i = 0; i < VARIABLES * VARIABLES; ++i) most = fmax(most, s->H[i]);
    for (int i = 0; i < VARIABLES; ++i) {
        s->H[i * VARIABLES + i] += RIDGE * most;
        s->lower[i] = -1 - trial->z[i];
        s->upper[i] = 1 - trial->z[i];
    }
    limit_rows(s, trial);
}

static int solve_qp(State *s)
{
    return qp_solve(&s->qp, VARIABLES, ROWS, s->H, s->g, s->C, s->lower, s->upper, s->prices);
}

/* By how much the local model expects the cost to fall along d. */
static double decrease(const State *s, const Trial *trial, const double *d)
{
    double gain = 0;
    for (int row = 0; row < SOFT_ROWS; ++row) {
        const double change = dot(VARIABLES, s->C + row * VARIABLES, d);
        const double over = fmax(change - s->upper[VARIABLES + row], s->lower[VARIABLES + row] - change);
        gain += price[row % SIZE(LIMITED)] * (trial->excess[row] - fmax(over, 0));
    }
    for (int i = 0; i < VARIABLES; ++i)
        gain -= d[i] * (s->g[i] + 0.5 * dot(VARIABLES, s->H + i * VARIABLES, d));
    return gain;
}

/* The whole step once more, with limits as curved as the trial shows (second-order correction); 0 where there is none. */
static int correct(State *s, const Trial *from, Trial *to)
{
    double moved[VARIABLES];
    if (!isfinite(to->cost)) return 0;
    for (int i = 0; i < VARIABLES; ++i) moved[i] = to->z[i] - from->z[i];
    limit_rows(s, from);
    for (int row = 0; row < SOFT_ROWS; ++row) {
        const int at = (row / SIZE(LIMITED) + 1) * NY + limited[row % SIZE(LIMITED)];
        const double bent = to->y[at] - from->y[at] - dot(VARIABLES, s->C + row * VARIABLES, moved);
        s->lower[VARIABLES + row] -= bent;
        s->upper[VARIABLES + row] -= bent;
    }
    if (solve_qp(s) != QP_SOLVED) return 0;
    for (int i = 0; i < VARIABLES; ++i) to->z[i] = from->z[i] + s->qp.z[i];
    follow(s, to);
    return 1;
}

/* The first of the steps 1, 1/2, 1/4, ... times s->d that lowers the cost enough, and its length; 0 for none. Where
   limits are hard, and their price therefore high, the whole step is first corrected for their curvature. */
static double search(State *s, int *now, double expected)
{
    const Trial *from = s->trials + *now;
    Trial *to = s->trials + !*now;
    for (double length = 1; length >= SHORTEST; length *= 0.5) {
        const double enough = from->cost - SUFFICIENT * length * expected + NOISE * fabs(from->cost);
        for (int i = 0; i < VARIABLES; ++i) to->z[i] = from->z[i] + length * s->d[i];
        follow(s, to);
        for (int k = 0; k < (length == 1 && !SOFT ? CORRECTIONS : 0) && !(to->cost <= enough); ++k)
            if (!correct(s, from, to)) break;
        if (to->cost <= enough) {
            *now = !*now;
            return length;
        }
    }
    return 0;
}

/* Inputs nearest to the guess, one after the other, that keep input and move limits. */
static void admit(const State *s, const double *guess, double *z)
{
    for (int k = 0; k < M; ++k)
        for (int j = 0; j < NU; ++j) {
            const int i = k * NU + j;
            const double before = k ? z[i - NU] : s->before[j];
            z[i] = clip((guess[i] - middle[j]) / half[j], -1, 1);
            if (BOUNDED) z[i] = clip(clip(z[i], before - move_limit[j], before + move_limit[j]), -1, 1);
        }
}

/* Solve the sample in s from a guess (M, NU). *now: which of s->trials is the answer. */
static Status solve(State *s, const double *guess, int *now, int *iterations)
{
    double step = INFINITY;
    int curved = 0;
    *now = *iterations = 0;
    admit(s, guess, s->trials[0].z);
    follow(s, s->trials);
    if (!isfinite(s->trials[0].cost)) return ${NAME}_FAILED;
    while (++*iterations <= MAX_ITERATIONS) {
        double last = step, length, ratio, error, expected;
        int settled;
        local_model(s, s->trials + *now, curved ? s->multipliers : 0);
        if (solve_qp(s) != QP_SOLVED) return ${NAME}_FAILED;
        memcpy(s->d, s->qp.z, sizeof s->d);
        memcpy(s->multipliers, s->qp.multiplier + VARIABLES, sizeof s->multipliers);
        expected = decrease(s, s->trials + *now, s->d);
        step = 0;
        for (int i = 0; i < VARIABLES; ++i) step = fmax(step, fabs(s->d[i]));
        length = search(s, now, expected);
        /* Steps that shrink by a factor q leave an error of q / (1 - q) times the last one. */
        ratio = step / last;
        error = ratio > 0 && ratio < 0.5 && length == 1 ? step * ratio / (1 - ratio) : step;
        settled = error <= ACCURACY || expected <= NOISE * s->trials[*now].cost;
        if (RTI || settled) {
            for (int row = 0; !SOFT && row < SOFT_ROWS; ++row)
                if (s->trials[*now].excess[row] > KEPT) return ${NAME}_INFEASIBLE;
            return ${NAME}_SOLVED;
        }
        if (length == 0) return ${NAME}_FAILED;
        curved = curved || length < 1 || ratio > SLOW || step < NEAR;
    }
    *iterations = MAX_ITERATIONS;
    return ${NAME}_MAX_ITERATIONS;
}
