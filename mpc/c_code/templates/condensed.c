/* Sequential quadratic programming on the inputs alone (condensing: Bock & Plitt, IFAC 1984), as
   mpc/solvers/condensed.py: the same local model, line search and stopping rule. Inputs z in half ranges around the
   middle, outputs in multiples of their scale, cost in multiples of the cost scale. The merit function is the objective
   with its penalty on slack. With a terminal set sample N is the steady state x_s of the last input, and
   |x_N - x_s| <= radius one more penalised limit. */

enum {
    VARIABLES = M * NU,
    LIMIT_ROWS = (N + 1 - FIRST) * LIMITED, /* limits of outputs, */
    PRICED = LIMIT_ROWS + TERMINAL,         /* with that of the terminal set, */
    ROWS = PRICED + M * BOUNDED,            /* and with those of moves */
    TOGETHER = ${NAME}_TOGETHER             /* samples whose outputs are added to Hessian and gradient at once */
};

static const double RIDGE = $RIDGE;    /* regularisation, as a share of the Hessian's largest entry */
static const double FLATTEST = $FLATTEST;  /* least eigenvalue, as a share of the largest, of an indefinite Hessian */
static const double SUFFICIENT = $SUFFICIENT; /* share of the expected decrease that a step has to reach */
static const double SHORTEST = $SHORTEST; /* shortest step length of the line search */
static const double SLOW = $SLOW;       /* the Lagrangian's Hessian is used after steps longer than this share of the */
static const double NEAR = $NEAR;       /* one before, or shorter than this */
static const double NOISE = $NOISE;    /* share of the cost: a smaller decrease is rounding */
static const int CORRECTIONS = $CORRECTIONS;    /* most second-order corrections of a full step */
static const double INSIDE = $INSIDE;   /* margin to limits with a terminal set, in merit function and QP each */
static const double EQUAL = $EQUAL;    /* violations of limits are equal up to this share */
static const double KEPT = $KEPT;      /* in output ranges: hard limits violated by more mean infeasible */

static double clip(double value, double low, double high)
{
    return smaller(larger(value, low), high);
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

/* The sample that a row of the output limits belongs to, and its output. */
static int sample_of(int row) { return row / SIZE(LIMITED) + FIRST; }
static int output_of(int row) { return limited[row % SIZE(LIMITED)]; }

#if TERMINAL_SET
/* Replace sample N by the steady state of the last input; returns the distance of x_N from it in radii of the set. */
static double end_of(State *s, Trial *trial, const double *u, double *x)
{
    double scaled[NX];
    memcpy(trial->gap, x, sizeof trial->gap);
    if (!isfinite(largest(NX, x)) || !equilibrium(s, u, x, 1)) return NAN;
    for (int i = 0; i < NX; ++i) trial->gap[i] -= x[i];
    for (int i = 0; i < NX; ++i) scaled[i] = dot(NX, terminal_root + i * NX, trial->gap);
    return sqrt(dot(NX, scaled, scaled)) / TERMINAL_RADIUS;
}
#endif

/* Simulate the model from s->x along trial->z, and from sample M on along the rows of `plan` (PLANNED, NU) where it is not
   null; sets the trial's outputs, violations and cost. */
static void follow(State *s, Trial *trial, const double *plan)
{
    double x[NX], u[NU], sum = 0, slack = 0;
    memcpy(x, s->x, sizeof x);
    trial->share = 0;
    for (int k = 0; k <= N; ++k) {
        double *point = trial->points + k * NZ, *y = trial->y + k * NY;
        for (int j = 0; j < NU; ++j)
            u[j] = plan && PLANNED > M && k >= M ? plan[(k < PLANNED ? k : PLANNED - 1) * NU + j] : input_of(trial->z, k, j);
#if TERMINAL_SET
        if (k == N) trial->share = end_of(s, trial, u, x);
#endif
        neurons(x, u, point);
        outputs(point, y);
        follower(point, x);
        for (int i = 0; i < NY; ++i) {
            double missed;
            y[i] /= scale[i];
            trial->error[k * NY + i] = y[i] - s->reference[k * NY + i];
            missed = root[k * NY + i] * trial->error[k * NY + i];
            sum += missed * missed;
        }
    }
    for (int row = 0; row < PRICED; ++row) {
        const int end = row == LIMIT_ROWS;
        const double value = end ? trial->share : trial->y[sample_of(row) * NY + output_of(row)];
        const double over = end ? value - (1 - INSIDE) : larger(value - s->high[row], s->low[row] - value);
        trial->excess[row] = over > 0 || isnan(over) ? over : 0;
        slack += s->prices[row] * trial->excess[row];
    }
    for (int k = 0; k < M; ++k)
        for (int j = 0; j < NU; ++j) {
            double moved = move_root[j] * move_of(s, trial->z, k, j);
            sum += moved * moved;
        }
    trial->cost = 0.5 * sum + slack;
}

/* out = J Z_k with Z_k the derivatives of (x_k, u_k) by the plan's inputs; only the first `columns` are not zero. */
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

/* Derivatives of the Lagrangian by the physical outputs of sample k. */
static void output_prices(const Trial *trial, const double *multipliers, int k, double *prices)
{
    for (int i = 0; i < NY; ++i) prices[i] = root[k * NY + i] * root[k * NY + i] * trial->error[k * NY + i];
    for (int l = 0; k >= FIRST && l < LIMITED; ++l) prices[limited[l]] += multipliers[(k - FIRST) * LIMITED + l];
    for (int i = 0; i < NY; ++i) prices[i] /= scale[i];
}

/* One step of the adjoint recursion: p, derivatives by x_{k+1}, becomes those by x_k; sets s->bend[k]. */
static void step_back(State *s, const Trial *trial, int k, const double *prices, double *p)
{
    const double *w = trial->points + k * NZ + NS;
    double back[NX], mu[SIZE(NV)];
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
            const double sent = mu[i] * derivative(i, w[i]);
            s->bend[k * NV + i] = mu[i] * curvature(i, w[i]);
            axpy(NX, sent, row, back);
            axpy(layer_start[l], sent, row + NS, mu);
        }
    memcpy(p, back, sizeof back);
}

/* s->bend = second derivatives of the Lagrangian by each neuron's input, by the adjoint of a simulation. */
static void bend(State *s, const Trial *trial, const double *multipliers)
{
    double p[NX], prices[NY];
    memset(p, 0, sizeof p);
    for (int k = N; k >= 0; --k) {
        output_prices(trial, multipliers, k, prices);
#if TERMINAL_SET
        if (k == N) { /* x_s is a fixed point, and so is its adjoint: p = p A_s + prices C_s - (adjoint of x_N) */
            double end[NX];
            for (int j = 0; j < NX; ++j) end[j] = fmax(multipliers[LIMIT_ROWS], 0) * s->outwards[j];
            linearise(s, trial->points + N * NZ);
            resolvent(s, 1);
            for (int j = 0; j < NX; ++j) {
                p[j] = -end[j];
                for (int i = 0; i < NY; ++i) p[j] += prices[i] * s->Jy[i * NS + j];
            }
            if (!eliminate(s->square, p, 1)) memset(p, 0, sizeof p);
            step_back(s, trial, k, prices, p);
            memcpy(p, end, sizeof p);
            continue;
        }
#endif
        step_back(s, trial, k, prices, p);
    }
}

/* H += sum_k weight_k row_k row_k', upper triangle; of what is below only the few entries that complete a block */
static void add_squares(int n, int rows, const double *weights, const double *X, double *H)
{
    double a[TOGETHER * NY] = {0.0};
    for (int i = 0; i < n; ++i) {
        const int from = i - i % 4;
        for (int k = 0; k < rows; ++k) a[k] = weights[k] * X[k * VARIABLES + i];
        combine(n - from, rows, a, X + from, VARIABLES, H + i * VARIABLES + from);
    }
}

/* Replace s->H by the nearest matrix with eigenvalues above a share of the largest (Jacobi's eigenvalue method). */
static void make_convex(State *s)
{
    double *A = s->qp.J, *Q = s->qp.R, largest = 0, smallest = 0, least, off = 1, all;
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
    for (int i = 0; largest <= 0 && i < VARIABLES; ++i) smallest = fmin(smallest, A[i * VARIABLES + i]);
    if (largest <= 0) largest = -smallest; /* all are negative */
    least = FLATTEST * largest;
    for (int i = 0; i < VARIABLES; ++i) {
        const double missing = least - A[i * VARIABLES + i];
        if (missing > 0) add_squares(VARIABLES, 1, &missing, Q + i * VARIABLES, s->H);
    }
}

/* Copy the upper triangle of H to the lower one. */
static void mirror(double *H)
{
    for (int a = 0; a < VARIABLES; ++a)
        for (int b = 0; b < a; ++b) H[a * VARIABLES + b] = H[b * VARIABLES + a];
}

#if TERMINAL_SET
/* s->outwards = gradient of the distance of x_N from the steady state, in radii, by the gap. */
static void look_outwards(State *s, const Trial *trial)
{
    double scaled[NX];
    const double size = trial->share * TERMINAL_RADIUS * TERMINAL_RADIUS;
    for (int i = 0; i < NX; ++i) scaled[i] = dot(NX, terminal_root + i * NX, trial->gap);
    zero(NX, s->outwards);
    if (size > 0)
        for (int i = 0; i < NX; ++i) axpy(NX, scaled[i] / size, terminal_root + i * NX, s->outwards);
}

/* s->gain = derivatives of the steady state by the last input. s->Jx must be that of the steady state. */
static void end_gain(State *s)
{
    resolvent(s, 0);
    for (int i = 0; i < NX; ++i)
        for (int j = 0; j < NU; ++j) s->gain[i * NU + j] = s->Jx[i * NS + NX + j] * half[j];
    if (!eliminate(s->square, s->gain, NU)) memset(s->gain, 0, sizeof s->gain);
}

/* At sample N: replace s->Z by the steady state's derivatives, and set the terminal row of C from those of the gap. */
static void condense_end(State *s)
{
    double *gap = s->Znext, *row = s->C + LIMIT_ROWS * VARIABLES;
    memcpy(gap, s->Z, sizeof s->Z);
    memset(s->Z, 0, sizeof s->Z);
    end_gain(s);
    for (int i = 0; i < NX; ++i)
        for (int j = 0; j < NU; ++j) {
            s->Z[i * VARIABLES + VARIABLES - NU + j] = s->gain[i * NU + j];
            gap[i * VARIABLES + VARIABLES - NU + j] -= s->gain[i * NU + j];
        }
    zero(VARIABLES, row);
    combine(VARIABLES, NX, s->outwards, gap, VARIABLES, row);
}

/* s->form, so far one of (x_s, u) at sample N, becomes one of (x_N, u): x_s follows u, and the distance of x_N from it
   is curved as well; `end` is the terminal set's multiplier. */
static void form_of_end(State *s, const Trial *trial, double end)
{
    double *steady = s->carried, row[NX];
    end_gain(s);
    for (int i = 0; i < NS; ++i)
        for (int j = 0; j < NU; ++j) {
            double sum = s->form[i * NS + NX + j];
            for (int k = 0; k < NX; ++k) sum += s->form[i * NS + k] * s->gain[k * NU + j];
            s->form[i * NS + NX + j] = sum;
        }
    for (int i = 0; i < NU; ++i)
        for (int j = 0; j < NU; ++j)
            for (int k = 0; k < NX; ++k)
                s->form[(NX + i) * NS + NX + j] += s->gain[k * NU + i] * s->form[k * NS + NX + j];
    for (int i = 0; i < NX; ++i) {
        zero(NS, s->form + i * NS);
        if (end > 0 && trial->share > 0) axpy(NX, -end / trial->share * s->outwards[i], s->outwards, s->form + i * NS);
    }
    for (int r = 0; end > 0 && trial->share > 0 && r < NX; ++r) {
        const double *root_row = terminal_root + r * NX;
        const double weight = end / trial->share / (TERMINAL_RADIUS * TERMINAL_RADIUS);
        for (int i = 0; i < NX; ++i) axpy(NX, weight * root_row[i], root_row, s->form + i * NS);
    }
    /* The gap is x_N - gain u. */
    for (int j = 0; j < NU; ++j) {
        for (int i = 0; i < NX; ++i) row[i] = s->gain[i * NU + j];
        for (int i = 0; i < NX; ++i) steady[j * NX + i] = dot(NX, s->form + i * NS, row);
    }
    for (int i = 0; i < NU; ++i) {
        for (int j = 0; j < NU; ++j)
            for (int k = 0; k < NX; ++k) s->form[(NX + i) * NS + NX + j] += s->gain[k * NU + i] * steady[j * NX + k];
        for (int k = 0; k < NX; ++k) s->form[(NX + i) * NS + k] = s->form[k * NS + NX + i] = -steady[i * NX + k];
    }
}
#endif

/* s->form += sum_r weight_r row_r row_r', upper triangle, over rows of derivatives by x and u, u in half ranges. */
static void add_form(State *s, int rows, const double *weights, const double *J, const double *unit)
{
    double a[SIZE(NY > NV ? NY : NV)] = {0.0}, *scaled = s->W; /* which the next linearisation sets again */
    for (int r = 0; r < rows; ++r) {
        const double size = unit ? 1 / unit[r] : 1;
        for (int i = 0; i < NX; ++i) scaled[r * NS + i] = size * J[r * NS + i];
        for (int j = 0; j < NU; ++j) scaled[r * NS + NX + j] = size * J[r * NS + NX + j] * half[j];
    }
    for (int i = 0; i < NS; ++i) {
        for (int r = 0; r < rows; ++r) a[r] = weights[r] * scaled[r * NS + i];
        combine(NS - i, rows, a, scaled + i, NS, s->form + i * NS + i);
    }
}

/* s->form, one of (x_(k+1), u_(k+1)), becomes T' form T, upper triangle, by s->Jx of sample k: T leads from (x_k, u_k) to
   (x_(k+1), u_k), for what is held from k on. */
static void take_back(State *s)
{
    double *J = s->stage, *Y = s->carried, column[NX];
    for (int i = 0; i < NX; ++i) {
        memcpy(J + i * NS, s->Jx + i * NS, NX * sizeof *J);
        for (int j = 0; j < NU; ++j) J[i * NS + NX + j] = s->Jx[i * NS + NX + j] * half[j];
    }
    for (int i = 0; i < NX; ++i) {
        zero(NX, Y + i * NS);
        memcpy(Y + i * NS + NX, s->form + i * NS + NX, NU * sizeof *Y);
        combine(NS, NX, s->form + i * NS, J, NS, Y + i * NS);
    }
    for (int i = 0; i < NU; ++i) {
        double *row = s->upwards + i * NS; /* what the held input adds */
        zero(NX, row);
        memcpy(row + NX, s->form + (NX + i) * NS + NX, NU * sizeof *row);
        combine(NS, NX, s->form + (NX + i) * NS, J, NS, row);
    }
    for (int i = 0; i < NS; ++i) {
        for (int k = 0; k < NX; ++k) column[k] = J[k * NS + i];
        zero(NS, s->form + i * NS);
        combine(NS - i, NX, column, Y + i, NS, s->form + i * NS + i);
        if (i >= NX) axpy(NS - i, 1, s->upwards + (i - NX) * NS + i, s->form + i * NS + i);
    }
}

/* s->gains: for each input of the plan the Hessian of the Lagrangian from its sample on, by the state there and by that
   input, from a recursion backwards (Frison & Jorgensen, CDC 2013); s->H is then one product for each input. */
static void look_ahead(State *s, const Trial *trial, const double *multipliers)
{
    double weights[NY];
    (void)multipliers;
    memset(s->form, 0, sizeof s->form);
    for (int k = N; k >= 0; --k) {
        linearise(s, trial->points + k * NZ);
        if (k < N) take_back(s);
        for (int i = 0; i < NY; ++i) weights[i] = root[k * NY + i] * root[k * NY + i];
        add_form(s, NY, weights, s->Jy, scale);
        add_form(s, NV, s->bend + k * NV, s->V, 0);
        for (int i = 0; i < NS; ++i)
            for (int j = 0; j < i; ++j) s->form[i * NS + j] = s->form[j * NS + i];
#if TERMINAL_SET
        if (k == N) form_of_end(s, trial, multipliers[LIMIT_ROWS]);
#endif
        if (k >= M) continue;
        memcpy(s->gains + k * NU * NS, s->form + NX * NS, NU * NS * sizeof *s->gains);
        memset(s->form + NX * NS, 0, NU * NS * sizeof *s->form);
        for (int i = 0; i < NX; ++i) zero(NU, s->form + i * NS + NX);
    }
}

/* Columns of s->H, upper triangle, that belong to the input of sample k, from s->gains and s->Z. */
static void curve(State *s, int k)
{
    double *row = s->Znext;
    for (int j = 0; j < NU; ++j) {
        const double *gain = s->gains + (k * NU + j) * NS;
        const int a = k * NU + j;
        zero(k * NU, row);
        combine(k * NU, NX, gain, s->Z, VARIABLES, row);
        for (int b = 0; b < k * NU; ++b) s->H[b * VARIABLES + a] = row[b];
        for (int i = 0; i <= j; ++i) s->H[(k * NU + i) * VARIABLES + a] = gain[NX + i];
    }
}

/* Set s->H and s->g without the moves' part, and the rows of s->C of output limits and terminal set. */
static void condense(State *s, const Trial *trial, const double *multipliers)
{
    double weights[TOGETHER * NY], pull[TOGETHER * NY];
    if (multipliers) look_ahead(s, trial, multipliers);
    memset(s->H, 0, sizeof s->H);
    memset(s->g, 0, sizeof s->g);
    memset(s->Z, 0, sizeof s->Z);
    for (int k = 0; k <= N; ++k) {
        const int columns = k < M ? (k + 1) * NU : VARIABLES, at = k % TOGETHER * NY;
        double *G = s->rows + at * VARIABLES;
        if (multipliers && k < M) curve(s, k);
        linearise(s, trial->points + k * NZ);
#if TERMINAL_SET
        if (k == N) condense_end(s);
#endif
        for (int i = 0; i < NY; ++i) {
            weights[at + i] = root[k * NY + i] * root[k * NY + i];
            pull[at + i] = weights[at + i] * trial->error[k * NY + i];
            for (int j = 0; j < NS; ++j) s->Jy[i * NS + j] /= scale[i];
            zero(VARIABLES - columns, G + i * VARIABLES + columns);
        }
        times(s, k, NY, columns, s->Jy, G);
        for (int l = 0; k >= FIRST && l < LIMITED; ++l)
            memcpy(s->C + ((k - FIRST) * LIMITED + l) * VARIABLES, G + limited[l] * VARIABLES, VARIABLES * sizeof *G);
        if (k == N || k % TOGETHER == TOGETHER - 1) {
            combine(columns, at + NY, pull, s->rows, VARIABLES, s->g);
            if (!multipliers) add_squares(columns, at + NY, weights, s->rows, s->H);
        }
        if (k < N) {
            times(s, k, NX, columns, s->Jx, s->Znext);
            for (int i = 0; i < NX; ++i)
                memcpy(s->Z + i * VARIABLES, s->Znext + i * VARIABLES, (size_t)columns * sizeof *s->Z);
        }
    }
}

/* Set the lower and upper limits of the QP's rows at a trial. */
static void limit_rows(State *s, const Trial *trial)
{
    double *lower = s->lower + VARIABLES, *upper = s->upper + VARIABLES;
    for (int row = 0; row < LIMIT_ROWS; ++row) {
        const double reached = trial->y[sample_of(row) * NY + output_of(row)];
        lower[row] = s->low[row] - reached + INSIDE;
        upper[row] = s->high[row] - reached - INSIDE;
    }
    if (TERMINAL) {
        lower[LIMIT_ROWS] = -INFINITY;
        upper[LIMIT_ROWS] = 1 - INSIDE - trial->share - INSIDE;
    }
    for (int row = 0; row < M * BOUNDED; ++row) {
        const int j = bounded[row % SIZE(BOUNDED)];
        const double moved = move_of(s, trial->z, row / SIZE(BOUNDED), j);
        /* Zero stays admissible: the input before may be one that its limits forbid to follow. */
        lower[PRICED + row] = fmin(-move_limit[j] - moved, 0);
        upper[PRICED + row] = fmax(move_limit[j] - moved, 0);
    }
}

/* Make the convex QP at a trial, with the Hessian of the Lagrangian if multipliers are given, else Gauss-Newton's. */
static void local_model(State *s, const Trial *trial, const double *multipliers)
{
    double most = 0;
#if TERMINAL_SET
    look_outwards(s, trial);
#endif
    if (multipliers) bend(s, trial, multipliers);
    condense(s, trial, multipliers);
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
    for (int i = 0; i < VARIABLES * VARIABLES; ++i) most = s->H[i] > most ? s->H[i] : most;
    for (int i = 0; i < VARIABLES; ++i) {
        s->H[i * VARIABLES + i] += RIDGE * most;
        s->lower[i] = -1 - trial->z[i];
        s->upper[i] = 1 - trial->z[i];
    }
    limit_rows(s, trial);
}

static int solve_qp(State *s, int again)
{
    return (again ? qp_solve_again : qp_solve)(&s->qp, VARIABLES, ROWS, s->H, s->g, s->C, s->lower, s->upper, s->prices);
}

/* Decrease of the cost that the local model expects for the step d of the QP that was solved last. */
static double decrease(const State *s, const Trial *trial, const double *d)
{
    double gain = 0, bent[VARIABLES];
    zero(VARIABLES, bent);
    combine(VARIABLES, VARIABLES, d, s->H, VARIABLES, bent);
    for (int row = 0; row < PRICED; ++row) {
        const double change = s->qp.value[VARIABLES + row];
        const double over = larger(change - s->upper[VARIABLES + row], s->lower[VARIABLES + row] - change);
        gain += s->prices[row] * (trial->excess[row] - larger(over - INSIDE, 0));
    }
    for (int i = 0; i < VARIABLES; ++i) gain -= d[i] * (s->g[i] + 0.5 * bent[i]);
    return gain;
}

/* Second-order correction of a full step for curved limits; 0 where the QP has no solution. */
static int correct(State *s, const Trial *from, Trial *to)
{
    double moved[VARIABLES], straight[VARIABLES + SIZE(ROWS)];
    if (!isfinite(to->cost)) return 0;
    for (int i = 0; i < VARIABLES; ++i) moved[i] = to->z[i] - from->z[i];
    qp_values(&s->qp, VARIABLES, ROWS, moved, straight);
    limit_rows(s, from);
    for (int row = 0; row < PRICED; ++row) {
        const int at = row < LIMIT_ROWS ? sample_of(row) * NY + output_of(row) : 0;
        const double change = row < LIMIT_ROWS ? to->y[at] - from->y[at] : to->share - from->share;
        const double bent = change - straight[VARIABLES + row];
        s->lower[VARIABLES + row] -= bent;
        s->upper[VARIABLES + row] -= bent;
    }
    if (solve_qp(s, 1) != QP_SOLVED) return 0;
    for (int i = 0; i < VARIABLES; ++i) to->z[i] = from->z[i] + s->qp.z[i];
    follow(s, to, 0);
    return 1;
}

/* Line search along s->d with lengths 1, 1/2, 1/4, ...; returns the length, 0 if none lowers the cost enough. With hard
   limits, whose penalty is high, the full step first gets second-order corrections, and shorter ones lie on the parabola
   t d + t^2 p between it and the plan. */
static double search(State *s, int *now, double expected)
{
    const Trial *from = s->trials + *now;
    Trial *to = s->trials + !*now;
    zero(VARIABLES, s->p);
    for (double length = 1; length >= SHORTEST; length *= 0.5) {
        const double enough = from->cost - SUFFICIENT * length * expected + NOISE * fabs(from->cost);
        for (int i = 0; i < VARIABLES; ++i) to->z[i] = from->z[i] + length * (s->d[i] + length * s->p[i]);
        follow(s, to, 0);
        for (int k = 0; k < (length == 1 && STEEP ? CORRECTIONS : 0) && !(to->cost <= enough); ++k) {
            if (!correct(s, from, to)) break;
            for (int i = 0; i < VARIABLES; ++i) s->p[i] = to->z[i] - from->z[i] - s->d[i];
        }
        if (to->cost <= enough) {
            *now = !*now;
            return length;
        }
    }
    return 0;
}

/* Scaled inputs z from a guess (M, NU), clipped to input and move limits one after the other. */
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

/* Set the penalties on output limits while the first `kept` ranks must not be violated further. */
static void set_prices(State *s, int kept)
{
    for (int row = 0; row < LIMIT_ROWS; ++row) s->prices[row] = price[kept * SIZE(LIMITED) + row % SIZE(LIMITED)];
}

/* Whether a trial keeps its hard limits, up to the tolerance KEPT. */
static int keeps_hard(const Trial *trial)
{
    for (int row = 0; row < LIMIT_ROWS; ++row)
        if (limit_hard[row % SIZE(LIMITED)] && !(trial->excess[row] <= KEPT)) return 0;
    return 1;
}

/* Whether a trial keeps all limits: exactly with a terminal set, else up to the tolerance KEPT. */
static int keeps_limits(const Trial *trial)
{
    for (int row = 0; row < PRICED; ++row)
        if (!(trial->excess[row] <= (TERMINAL ? INSIDE : KEPT))) return 0;
    return 1;
}

/* One SQP iteration from s->trials[*now]. Sets the QP step's size, the step length, and whether it has converged. */
static int iterate(State *s, int *now, int curved, double last, double *step, double *length, int *settled)
{
    double ratio, error, expected;
    local_model(s, s->trials + *now, curved ? s->multipliers : 0);
    if (solve_qp(s, 0) != QP_SOLVED) return 0;
    memcpy(s->d, s->qp.z, sizeof s->d);
    memcpy(s->multipliers, s->qp.multiplier + VARIABLES, sizeof s->multipliers);
    expected = decrease(s, s->trials + *now, s->d);
    *step = largest(VARIABLES, s->d);
    *length = search(s, now, expected);
    /* Steps that shrink by a factor q leave an error of q / (1 - q) times the last one. */
    ratio = *step / last;
    error = ratio > 0 && ratio < 0.5 && *length == 1 ? *step * ratio / (1 - ratio) : *step;
    *settled = error <= ACCURACY || expected <= NOISE * s->trials[*now].cost;
    return 1;
}

/* Solve the sample in s from a guess (M, NU). The answer is s->best if *feasible (with a terminal set: the best plan
   found that keeps all limits and ends in the set), else s->trials[*now]. */
static Status solve(State *s, const double *guess, int *now, int *iterations, int *feasible)
{
    double step = INFINITY;
    int curved = 0, settled = 0, best_now;
    Status status = ${NAME}_MAX_ITERATIONS;
    *now = *iterations = *feasible = 0;
    admit(s, guess, s->trials[0].z);
    follow(s, s->trials, 0);
    if (!isfinite(s->trials[0].cost)) return ${NAME}_FAILED;
    best_now = *feasible = TERMINAL && keeps_limits(s->trials);
    if (best_now) s->best = s->trials[0];
    while (++*iterations <= MAX_ITERATIONS) {
        double last = step, length;
        const Trial *trial;
        if (!iterate(s, now, curved, last, &step, &length, &settled)) {
            status = ${NAME}_FAILED;
            break;
        }
        trial = s->trials + *now;
        if (TERMINAL && length > 0) {
            best_now = keeps_limits(trial) && (!*feasible || trial->cost < s->best.cost);
            if (best_now) s->best = *trial;
            *feasible = *feasible || best_now;
        }
        if (settled || (RTI && (*iterations >= RTI || length == 0) && (!TERMINAL || best_now))) status = ${NAME}_SOLVED;
        else if (length == 0) status = ${NAME}_FAILED;
        if (status != ${NAME}_MAX_ITERATIONS) break;
        curved = curved || length < 1 || step / last > SLOW || step < NEAR;
    }
    if (*iterations > MAX_ITERATIONS) *iterations = MAX_ITERATIONS;
    if (*feasible && !best_now && status == ${NAME}_SOLVED && !keeps_limits(s->trials + *now)) return ${NAME}_FAILED;
    if (status == ${NAME}_SOLVED && !(TERMINAL ? *feasible : keeps_hard(s->trials + *now)))
        return ${NAME}_INFEASIBLE;
    return status;
}
