/* Dense quadratic programs with hard limits and exact-penalty soft limits:

       min  z'Hz / 2 + g'z + price' s     s.t.  lower <= z <= upper,   lower - s <= Cz <= upper + s,   s >= 0

   The dual method of Goldfarb and Idnani (Mathematical Programming 27, 1983) with the price as upper limit of the
   multiplier: slacks are no variables. A constraint is idle (multiplier 0), tight (on its limit), or paid for (beyond
   its limit, multiplier equal to the price). Constraints 0 to n - 1 are the variables' own limits. */

enum { QP_SOLVED, QP_INFEASIBLE, QP_FAILED };
enum { IDLE, TIGHT, PAID };

static const double QP_ACCURACY = 1e-10;  /* of constraints, relative to the length of their normal and their limit */
static const double QP_DEPENDENT = 1e-10; /* relative length outside the active normals' span that counts as zero */
static const double QP_BROKEN = 1e-4;     /* excess over a hard limit, relative to the row and its value: no solution */

/* The larger and the smaller one of two numbers, b where a is NaN; fmax and fmin, which are calls, say a where b is. */
static double larger(double a, double b) { return a > b ? a : b; }
static double smaller(double a, double b) { return a < b ? a : b; }

static double dot(int n, const double *a, const double *b)
{
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0; /* four independent sums can be computed in parallel */
    int i = 0;
    for (; i + 3 < n; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    for (; i < n; ++i) s0 += a[i] * b[i];
    return (s0 + s1) + (s2 + s3);
}

static void zero(int n, double *a)
{
    for (int i = 0; i < n; ++i) a[i] = 0;
}

/* y += a x; four at a time, read before they are written, which compilers turn into operations on vectors */
static void axpy(int n, double a, const double *x, double *y)
{
    int i = 0;
    for (; i + 3 < n; i += 4) {
        const double y0 = y[i] + a * x[i], y1 = y[i + 1] + a * x[i + 1];
        const double y2 = y[i + 2] + a * x[i + 2], y3 = y[i + 3] + a * x[i + 3];
        y[i] = y0;
        y[i + 1] = y1;
        y[i + 2] = y2;
        y[i + 3] = y3;
    }
    for (; i < n; ++i) y[i] += a * x[i];
}

/* y += sum_k a_k x_k over the rows x_k of X with stride `apart`; four rows at a time save memory accesses to y */
static void combine(int n, int rows, const double *a, const double *X, int apart, double *y)
{
    for (; rows >= 4; rows -= 4, a += 4, X += 4 * apart) {
        const double *x0 = X, *x1 = x0 + apart, *x2 = x1 + apart, *x3 = x2 + apart;
        const double a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
        int i = 0;
        for (; i + 3 < n; i += 4) {
            const double y0 = y[i] + ((a0 * x0[i] + a1 * x1[i]) + (a2 * x2[i] + a3 * x3[i]));
            const double y1 = y[i + 1] + ((a0 * x0[i + 1] + a1 * x1[i + 1]) + (a2 * x2[i + 1] + a3 * x3[i + 1]));
            const double y2 = y[i + 2] + ((a0 * x0[i + 2] + a1 * x1[i + 2]) + (a2 * x2[i + 2] + a3 * x3[i + 2]));
            const double y3 = y[i + 3] + ((a0 * x0[i + 3] + a1 * x1[i + 3]) + (a2 * x2[i + 3] + a3 * x3[i + 3]));
            y[i] = y0;
            y[i + 1] = y1;
            y[i + 2] = y2;
            y[i + 3] = y3;
        }
        for (; i < n; ++i) y[i] += (a0 * x0[i] + a1 * x1[i]) + (a2 * x2[i] + a3 * x3[i]);
    }
    for (; rows > 0; --rows, ++a, X += apart) axpy(n, *a, X, y);
}

/* Cholesky factor L of A (n, n) in place of its lower triangle, and L' above; 0 unless A is positive definite. Row k of
   L' is what is left of row k of A after the rows before. */
static int cholesky(int n, double *A)
{
    double a[${NAME}_VARIABLES] = {0.0}; /* compilers do not see that all of it is set before it is read */
    for (int k = 0; k < n; ++k) {
        double *row = A + k * n, root;
        for (int i = 0; i < k; ++i) a[i] = -A[i * n + k];
        combine(n - k, k, a, A + k, n, row + k);
        if (!(row[k] > 0) || !isfinite(row[k])) return 0;
        root = 1 / sqrt(row[k]);
        for (int i = k; i < n; ++i) row[i] *= root;
    }
    for (int k = 0; k < n; ++k)
        for (int i = 0; i < k; ++i) A[k * n + i] = A[i * n + k];
    return 1;
}

/* Rotation of two rows a and b of length n: (a, b) = (c a + s b, c b - s a). */
static void rotate(int n, double c, double s, double *a, double *b)
{
    for (int i = 0; i < n; ++i) {
        double first = a[i], second = b[i];
        a[i] = c * first + s * second;
        b[i] = c * second - s * first;
    }
}

/* Values at z of all constraints. */
static void qp_values(const Quadratic *q, int n, int m, const double *z, double *value)
{
    memcpy(value, z, (size_t)n * sizeof *z);
    zero(m, value + n);
    combine(m, n, z, q->columns, m, value + n);
}

/* Take limits; 0 if they are no numbers. */
static int qp_limit(Quadratic *q, int n, int m, const double *lower, const double *upper)
{
    int numbers = 1;
    for (int i = 0; i < n + m; ++i) {
        q->over[i] = QP_ACCURACY * (q->size[i] + fabs(upper[i]));
        q->under[i] = QP_ACCURACY * (q->size[i] + fabs(lower[i]));
        numbers &= !isnan(lower[i]) && !isnan(upper[i]);
    }
    q->pivots = 0;
    return numbers;
}

/* Start at the unconstrained minimum: J = inverse of the Cholesky factor of H, z = -H^-1 g, all constraints idle. 0 if H
   is not positive definite, or limits or lengths of rows are no numbers. */
static int qp_begin(Quadratic *q, int n, int m, const double *H, const double *g, const double *C, const double *lower,
                    const double *upper)
{
    memcpy(q->R, H, (size_t)(n * n) * sizeof *H);
    if (!cholesky(n, q->R)) return 0;
    zero(n * n, q->J);
    zero(n, q->z);
    for (int i = 0; i < n; ++i) {
        double *row = q->J + i * n, scale = -1 / q->R[i * n + i];
        for (int k = 0; k < i; k += 8) { /* row k of J ends with column k */
            const int rows = i - k < 8 ? i - k : 8;
            combine(k + rows, rows, q->R + i * n + k, q->J + k * n, n, row);
        }
        row[i] = -1;
        for (int j = 0; j <= i; ++j) row[j] *= scale;
        axpy(i + 1, -dot(i + 1, row, g), row, q->z);
    }
    for (int i = 0; i < n + m; ++i) {
        q->kind[i] = IDLE;
        q->multiplier[i] = 0;
        q->size[i] = i < n;
    }
    for (int j = 0; j < n; ++j) {
        double *column = q->columns + j * m;
        for (int i = 0; i < m; ++i) column[i] = C[i * n + j];
        for (int i = 0; i < m; ++i) q->size[n + i] += column[i] * column[i];
    }
    for (int i = n; i < n + m; ++i) {
        q->size[i] = sqrt(q->size[i]);
        if (!isfinite(q->size[i])) return 0;
    }
    q->count = 0;
    return qp_limit(q, n, m, lower, upper);
}

/* Start at the minimum with the constraints that the last program ended with, tight or paid for, under other limits; 0
   if it is none: a multiplier is negative or above its price, or limits are no numbers. With J z = a and -J g = e, less
   what is paid for, R'a are the tight limits and R r = e - a their multipliers; beyond them a = e. */
static int qp_resume(Quadratic *q, int n, int m, const double *g, const double *C, const double *lower,
                     const double *upper, const double *price)
{
    if (!qp_limit(q, n, m, lower, upper)) return 0;
    memcpy(q->direction, g, (size_t)n * sizeof *g);
    for (int i = 0; i < m; ++i)
        if (q->kind[n + i] == PAID) axpy(n, q->multiplier[n + i], C + i * n, q->direction);
    for (int j = 0; j < n; ++j) {
        q->d[j] = -dot(n, q->J + j * n, q->direction);
        q->r[j] = 0;
    }
    for (int k = 0; k < q->count && k < n; ++k) { /* the latter for the compiler's bounds checks, as in qp_add */
        const int i = q->active[k];
        double a = q->side[i] * (q->side[i] > 0 ? upper[i] : lower[i]);
        for (int j = 0; j < k; ++j) a -= q->R[j * n + k] * (q->d[j] - q->r[j]);
        q->r[k] = q->d[k] - a / q->R[k * n + k];
    }
    for (int k = 0; k < q->count; ++k) q->d[k] -= q->r[k];
    for (int k = q->count - 1; k >= 0; --k) {
        const int i = q->active[k];
        q->r[k] = (q->r[k] - dot(q->count - 1 - k, q->R + k * n + k + 1, q->r + k + 1)) / q->R[k * n + k];
        if (!(q->r[k] >= 0 && q->r[k] <= (i < n ? INFINITY : price[i - n]))) return 0;
        q->multiplier[i] = q->side[i] * q->r[k];
    }
    zero(n, q->z);
    combine(n, n, q->d, q->J, n, q->z);
    return 1;
}

/* Value of constraint i at z. */
static double qp_value(const Quadratic *q, int n, const double *C, int i)
{
    return i < n ? q->z[i] : dot(n, C + (i - n) * n, q->z);
}

/* The most violated condition, or -1: an idle constraint beyond a limit, or a paid one back within. Sets its side. */
static int qp_worst(Quadratic *q, int n, int m, const double *lower, const double *upper)
{
    int worst = -1;
    double most = 1, beyond[${NAME}_VARIABLES + ${NAME}_ROWS];
    qp_values(q, n, m, q->z, q->value);
    for (int i = 0; i < n + m; ++i)
        beyond[i] = larger(q->value[i] - upper[i] - q->over[i], lower[i] - q->value[i] - q->under[i]);
    for (int i = 0; i < n + m; ++i) {
        const double over = q->value[i] - upper[i], under = lower[i] - q->value[i];
        double off;
        int side;
        if ((beyond[i] <= 0 && q->kind[i] != PAID) || q->kind[i] == TIGHT) continue; /* most are idle and inside */
        side = q->kind[i] == PAID ? q->side[i] : over >= under ? 1 : -1;
        off = side > 0 ? over / q->over[i] : under / q->under[i];
        if (q->kind[i] == PAID) off = -off;
        if (off > most) {
            most = off;
            worst = i;
            q->side[i] = (signed char)side;
        }
    }
    return worst;
}

/* Directions for constraint p: d = J normal, the primal direction, and r, the change of the active multipliers. Returns
   the squared length of d outside the active normals' span, or 0 if it is negligible. */
static double qp_directions(Quadratic *q, int n, const double *C, int p)
{
    double inside = 0, outside = 0;
    for (int j = 0; j < n; ++j) {
        q->d[j] = q->side[p] * (p < n ? q->J[j * n + p] : dot(n, q->J + j * n, C + (p - n) * n));
        if (j < q->count) inside += q->d[j] * q->d[j];
        else outside += q->d[j] * q->d[j];
    }
    for (int i = q->count - 1; i >= 0; --i)
        q->r[i] = (q->d[i] - dot(q->count - 1 - i, q->R + i * n + i + 1, q->r + i + 1)) / q->R[i * n + i];
    zero(n, q->direction);
    combine(n, n - q->count, q->d + q->count, q->J + q->count * n, n, q->direction);
    return outside > QP_DEPENDENT * QP_DEPENDENT * (inside + outside) ? outside : 0;
}

/* Make p active: one Householder reflection turns its part outside the span into the next basis vector. */
static void qp_add(Quadratic *q, int n, int p, double outside)
{
    const int k = q->count;
    double alpha, scale, *first = q->J + k * n;
    if (k >= n) return; /* impossible, as nothing lies outside then; for the compiler's bounds checks */
    alpha = q->d[k] > 0 ? -sqrt(outside) : sqrt(outside);
    for (int i = 0; i < k; ++i) q->R[i * n + k] = q->d[i];
    q->R[k * n + k] = alpha;
    axpy(n, -alpha, first, q->direction); /* J' v, with v = d - alpha e_k */
    q->d[k] -= alpha;
    scale = 1 / (alpha * q->d[k]); /* -2 / v'v */
    for (int j = k; j < n; ++j) axpy(n, scale * q->d[j], q->direction, q->J + j * n);
    q->active[q->count++] = p;
    q->kind[p] = TIGHT;
}

/* Remove the active constraint at place l, and restore the triangular form of R by rotations. */
static void qp_drop(Quadratic *q, int n, int l, int kind)
{
    const int last = --q->count;
    q->kind[q->active[l]] = (signed char)kind;
    for (int j = l; j < last; ++j) {
        q->active[j] = q->active[j + 1];
        for (int i = 0; i <= j + 1; ++i) q->R[i * n + j] = q->R[i * n + j + 1];
    }
    for (int j = l; j < last; ++j) {
        double a = q->R[j * n + j], b = q->R[(j + 1) * n + j], length = sqrt(a * a + b * b);
        if (length == 0) continue;
        rotate(last - j, a / length, b / length, q->R + j * n + j, q->R + (j + 1) * n + j);
        rotate(n, a / length, b / length, q->J + j * n, q->J + (j + 1) * n);
    }
}

/* Largest dual step along r before an active multiplier reaches 0 or its price; the place of that one in *l, or -1. */
static double qp_block(const Quadratic *q, int n, const double *price, int sign, int *l)
{
    double least = INFINITY, largest = 0;
    *l = -1;
    for (int j = 0; j < q->count; ++j) largest = larger(fabs(q->r[j]), largest);
    for (int j = 0; j < q->count; ++j) {
        const int i = q->active[j];
        double change = -sign * q->r[j], held = q->side[i] * q->multiplier[i], room;
        if (!(fabs(change) > 1e-12 * largest)) continue; /* rounding */
        room = change < 0 ? held : (i < n ? INFINITY : price[i - n] - held);
        if (larger(room, 0) / fabs(change) < least) {
            least = larger(room, 0) / fabs(change);
            *l = j;
        }
    }
    return least;
}

/* Resolve the violated condition of constraint p: it ends on its limit, paid for, or (if it was paid for) idle. */
static int qp_satisfy(Quadratic *q, int n, const double *C, const double *lower, const double *upper,
                      const double *price, int p, int most)
{
    const int side = q->side[p], sign = q->kind[p] == PAID ? -1 : 1;
    const double limit = side > 0 ? upper[p] : lower[p], cost = p < n ? INFINITY : price[p - n];
    double held = sign > 0 ? 0 : cost;
    for (; q->pivots < most; ++q->pivots) {
        double outside = qp_directions(q, n, C, p), own = sign > 0 ? cost - held : held, full = INFINITY, step;
        int l;
        double block = qp_block(q, n, price, sign, &l);
        if (outside > 0) full = larger(sign * side * (qp_value(q, n, C, p) - limit), 0) / outside;
        step = smaller(full, smaller(own, block));
        if (!isfinite(step)) return QP_INFEASIBLE;
        if (outside > 0) axpy(n, -sign * step, q->direction, q->z);
        for (int j = 0; j < q->count; ++j)
            q->multiplier[q->active[j]] -= q->side[q->active[j]] * sign * step * q->r[j];
        held += sign * step;
        q->multiplier[p] = side * held;
        if (step == full) {
            qp_add(q, n, p, outside);
            return QP_SOLVED;
        }
        if (step == own) {
            q->kind[p] = sign > 0 ? PAID : IDLE;
            q->multiplier[p] = sign > 0 ? side * cost : 0;
            return QP_SOLVED;
        }
        {
            const int i = q->active[l], paid = sign * q->r[l] < 0;
            q->multiplier[i] = paid ? q->side[i] * price[i - n] : 0;
            qp_drop(q, n, l, paid ? PAID : IDLE);
        }
    }
    return QP_FAILED;
}

/* Put the variables within their own limits to the last bit; 0 if that is no solution: not finite, or they cross, or
   a hard row is broken by more than rounding. */
static int qp_end(Quadratic *q, int n, int m, const double *lower, const double *upper, const double *price)
{
    for (int i = 0; i < n; ++i) {
        if (!isfinite(q->z[i])) return 0;
        q->z[i] = smaller(larger(q->z[i], lower[i]), upper[i]);
        if (!isfinite(q->z[i]) || lower[i] - q->z[i] > QP_ACCURACY * (1 + fabs(q->z[i]))) return 0;
    }
    qp_values(q, n, m, q->z, q->value);
    for (int i = 0; i < m; ++i) {
        const double value = q->value[n + i], most = QP_BROKEN * (q->size[n + i] + fabs(value));
        if (isinf(price[i]) && !(larger(value - upper[n + i], lower[n + i] - value) <= most)) return 0;
    }
    return 1;
}

/* Resolve violated conditions, the worst one first, until there is none. */
static int qp_go_on(Quadratic *q, int n, int m, const double *C, const double *lower, const double *upper,
                    const double *price)
{
    const int most = 10 * (n + m) + 50;
    while (q->pivots < most) {
        int status, p = qp_worst(q, n, m, lower, upper);
        if (p < 0) return qp_end(q, n, m, lower, upper, price) ? QP_SOLVED : QP_FAILED;
        ++q->pivots;
        status = qp_satisfy(q, n, C, lower, upper, price, p, most);
        if (status != QP_SOLVED) return status;
    }
    return QP_FAILED;
}

/* Solve one quadratic program of n variables and m rows. H (n, n) positive definite, C (m, n), lower and upper (n + m),
   price (m), infinite for hard limits. The solution is q->z with multipliers q->multiplier and values q->value. */
static int qp_solve(Quadratic *q, int n, int m, const double *H, const double *g, const double *C, const double *lower,
                    const double *upper, const double *price)
{
    if (!qp_begin(q, n, m, H, g, C, lower, upper)) return QP_FAILED;
    return qp_go_on(q, n, m, C, lower, upper, price);
}

/* Solve the last program, whose solution q is, with other limits. */
static int qp_solve_again(Quadratic *q, int n, int m, const double *H, const double *g, const double *C,
                          const double *lower, const double *upper, const double *price)
{
    if (qp_resume(q, n, m, g, C, lower, upper, price) && qp_go_on(q, n, m, C, lower, upper, price) == QP_SOLVED)
        return QP_SOLVED;
    return qp_solve(q, n, m, H, g, C, lower, upper, price);
}
