/* Memory of the QP solver. */
typedef struct {
    double J[${NAME}_VARIABLES * ${NAME}_VARIABLES]; /* rows: a basis in which H is the identity; active normals first */
    double R[${NAME}_VARIABLES * ${NAME}_VARIABLES]; /* the active normals in that basis, upper triangular */
    double z[${NAME}_VARIABLES], d[${NAME}_VARIABLES], r[${NAME}_VARIABLES], direction[${NAME}_VARIABLES];
    double multiplier[${NAME}_VARIABLES + ${NAME}_ROWS]; /* positive at the upper limit */
    double size[${NAME}_VARIABLES + ${NAME}_ROWS];       /* length of each constraint's normal */
    double over[${NAME}_VARIABLES + ${NAME}_ROWS], under[${NAME}_VARIABLES + ${NAME}_ROWS]; /* accuracies of limits */
    double value[${NAME}_VARIABLES + ${NAME}_ROWS];      /* of each constraint at z */
    double columns[${NAME}_VARIABLES * ${NAME}_ROWS];    /* of the rows' matrix */
    int active[${NAME}_VARIABLES];                       /* constraints in the order of the columns of R */
    signed char kind[${NAME}_VARIABLES + ${NAME}_ROWS], side[${NAME}_VARIABLES + ${NAME}_ROWS];
    int count, pivots;
} ${name}_qp;
