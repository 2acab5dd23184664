
#ifdef ${NAME}_SELF_TEST
#include <stdio.h>

$samples

static State state;

int main(void)
{
    double worst = 0;
    int differ = 0;
    ${name}_init(&state);
    for (int t = 0; t < TESTED; ++t) {
        double u[NU];
        Info info;
        ${name}_step(&state, test_y + t * NM, test_reference + t * NM, u, &info);
        differ += (int)info.status != test_status[t] || (int)info.fallback != test_fallback[t]
            || info.broken != test_broken[t];
        for (int j = 0; j < NU; ++j) {
            double off = fabs(u[j] - test_u[t * NU + j]) / (2 * half[j]);
            worst = off <= worst ? worst : off; /* keeps NaN */
        }
    }
    printf("largest difference of an input %.3g of its range, %d statuses differ\n", worst, differ);
    return worst <= 1e-5 && !differ ? 0 : 1;
}
#endif
