"""Condensed SQP solver: sequential quadratic programming on the inputs alone, for predictors that are Lur'e systems.

Each iteration linearises the whole plan in one pass, eliminates the states (`mpc.solvers.condensing`), solves one small
dense QP (`mpc.quadratic`) and searches along its step until the exact-penalty merit function, which is the objective of
`mpc.problem.ocp` itself, decreases enough. Input and move limits are linear, so that every iterate keeps them. The
Hessian is that of Gauss-Newton at first (Bock 1983), then that of the Lagrangian, whose curvature comes from the
neurons alone: convergence is then quadratic, also for references out of reach, where Gauss-Newton is slow. Full
Gauss-Newton steps without line search cycle on such problems.

With a terminal set (`mpc.tightening.terminal_set`) a plan that keeps all limits may be applied even if the solve was
stopped early: the best such plan found is returned, and `SolverOptions.rti` iterates until there is one.

`SolverOptions.rti` stops after the given number of iterations: the real-time iteration of Diehl, Bock and Schlöder
(SIAM J. Control Optim. 2005) with a line search. The solver has no memory from sample to sample except the guess that
the caller passes.
"""

from __future__ import annotations

import time

import numpy as np

from controlrnn.checks import Array
from mpc.c_tables import SolverTable
from mpc.problem.ocp import OptimalControlProblem, Solution, StepData
from mpc.problem.ranking import KEPT
from mpc.problem.solver_options import SolverOptions, Status
from mpc.quadratic import QuadraticProgram
from mpc.solvers.condensed_problem import CondensedProblem, LocalModel, Plan, Sample

SUFFICIENT = 1e-4  # share of the expected decrease that a step has to reach (Armijo)
SHORTEST = 2.0**-12  # shortest step length of the line search
SLOW = 0.1  # the Lagrangian's Hessian is used after a step longer than this share of the one before,
NEAR = 0.5  # or shorter than this (half ranges)
CORRECTIONS = 3  # most second-order corrections of a full step, for hard limits
NOISE = 1e-13  # of the cost, or of the absolute sum of its terms: a smaller decrease is rounding


class CondensedBackend:
    """Condensed SQP solver; see the module docstring.

    Args:
        problem: The optimal control problem, on a `LureSystem`.
        options: Limits for the solver. A plan is converged when no input is expected to be further than
            sqrt(``tolerance``) of its half range from the solution. Since the cost is flat there, ``tolerance`` is its
            relative accuracy.

    Raises:
        SettingError: The predictor's system is not a `LureSystem`, or an input has no limits.
    """

    def __init__(self, problem: OptimalControlProblem, options: SolverOptions) -> None:
        self.problem = problem
        self.options = options
        # Violations of hard limits grow with the square of the inputs' error: hence the higher accuracy there.
        self._steep = not problem.soft or problem.ranking is not None
        self._accuracy = np.sqrt(options.tolerance) * (0.01 if self._steep else 1.0)
        ranks = range(1 if problem.ranking is None else problem.ranking.levels)
        parts = [CondensedProblem(problem, rank) for rank in ranks]
        self._parts = [(part, QuadraticProgram(part.n, part.prices)) for part in parts]
        self._condensed, self._program = self._parts[0]

    def __getstate__(self) -> tuple[OptimalControlProblem, SolverOptions]:
        """Problem and options, from which copies are built: working memory, whose arrays share storage, is left out."""
        return self.problem, self.options

    def __setstate__(self, state: tuple[OptimalControlProblem, SolverOptions]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def reset(self) -> None:
        """Do nothing, since the solver has no memory; see `mpc.problem.ocp.Backend.reset`."""

    def c_table(self) -> SolverTable:
        """Numbers that C code needs of the solver."""
        prices = np.concatenate([part.limit_prices for part, _ in self._parts])
        return self._parts[0][0].c_table(prices, steep=self._steep, accuracy=float(self._accuracy))

    def solve(self, data: StepData) -> Solution:
        """Solve one sample; see `mpc.problem.ocp.Backend.solve`."""
        limit = self.options.max_wall_time
        deadline = np.inf if limit is None else time.perf_counter() + limit
        self._condensed, self._program = self._parts[data.kept_ranks]
        sample = self._condensed.sample(data)
        plan = self._condensed.plan(sample, self._condensed.admissible(sample, data.guess))
        if not np.isfinite(plan.cost):
            return self._solution(
                Status.FAILED, plan, 0, "state, reference or guess lead to numbers that are not finite"
            )
        # curved: whether the Lagrangian's Hessian is used; best: best plan so far that keeps all limits.
        step, minimum, curved, best = np.inf, None, False, self._better(None, plan)
        for iteration in range(1, self.options.max_iterations + 1):
            model = self._condensed.model(sample, plan, minimum.multipliers if minimum and curved else None)
            minimum = self._program.solve(model.H, model.g, model.C, model.lower, model.upper)
            if minimum is None:
                return self._solution(Status.FAILED, plan, iteration, "the QP has no solution in floating point", best)
            last, step = step, float(np.abs(minimum.z).max())
            expected = self._condensed.decrease(plan, model, minimum.z)
            plan, length = self._search(sample, plan, model, minimum.z, expected)
            best = self._better(best, plan)
            # Steps that shrink by a factor q leave an error of q / (1 - q) times the last one.
            ratio = step / last  # 0 at first
            error = step * ratio / (1.0 - ratio) if 0.0 < ratio < 0.5 and length == 1.0 else step
            settled = error <= self._accuracy or expected <= NOISE * plan.size
            enough = self.options.rti and (iteration >= self.options.rti or length == 0.0)
            once = enough and (self.problem.terminal is None or best is plan)
            if once or settled:
                message = "real-time iteration" if not settled else "converged"
                return self._solution(Status.SOLVED, plan, iteration, message, best)
            if length == 0.0:
                return self._solution(Status.FAILED, plan, iteration, "no decrease along the step", best)
            if time.perf_counter() > deadline:
                return self._solution(Status.TIME_LIMIT, plan, iteration, "time limit", best)
            curved = curved or length < 1.0 or ratio > SLOW or step < NEAR
        return self._solution(Status.MAX_ITERATIONS, plan, self.options.max_iterations, "iteration limit", best)

    def _search(self, sample: Sample, plan: Plan, model: LocalModel, d: Array, expected: float) -> tuple[Plan, float]:
        """Line search along d with step lengths 1, 1/2, 1/4, ...; returns plan and length, or length 0 if none will do.

        Where limits are hard, and their penalty therefore high, the full step first gets second-order corrections, and
        shorter ones lie on the parabola t d + t^2 p between it and the plan.
        """
        length, p = 1.0, None
        while length >= SHORTEST:
            step = d if p is None else d + length * p
            trial = self._condensed.plan(sample, plan.z + length * step)
            enough = plan.cost - SUFFICIENT * length * expected + NOISE * plan.size
            for _ in range(CORRECTIONS if length == 1.0 and self._steep else 0):
                if trial.cost <= enough:
                    break
                trial = self._correct(sample, plan, model, trial)
                p = trial.z - plan.z - d
            if trial.cost <= enough:
                return trial, length
            length *= 0.5
        return plan, 0.0

    def _correct(self, sample: Sample, plan: Plan, model: LocalModel, trial: Plan) -> Plan:
        """Second-order correction of a full step for curved limits; the trial itself where the QP has no solution."""
        if not np.isfinite(trial.cost):
            return trial
        bent = self._condensed.corrected(plan, model, trial)
        minimum = self._program.solve(bent.H, bent.g, bent.C, bent.lower, bent.upper)
        return trial if minimum is None else self._condensed.plan(sample, plan.z + minimum.z)

    def _better(self, best: Plan | None, plan: Plan) -> Plan | None:
        """Cheaper of two plans, of those that keep all limits; only with a terminal set."""
        if self.problem.terminal is None or not self._condensed.keeps_limits(plan):
            return best
        return plan if best is None or plan.cost < best.cost else best

    def _solution(
        self, status: Status, plan: Plan, iterations: int, message: str, best: Plan | None = None
    ) -> Solution:
        problem, condensed = self.problem, self._condensed
        if best is not None and best is not plan:
            if status is Status.SOLVED and not condensed.keeps_limits(plan):
                status = Status.FAILED
            plan, message = best, f"{message}; the best plan that keeps all limits"
        slack = condensed.slack(plan)
        if status is Status.SOLVED and not problem.soft:
            over = (slack > KEPT * problem.output_scale)[:, problem.hard]
            lacking = over.any() if problem.terminal is None else best is None
            if lacking:
                status, message = Status.INFEASIBLE, "the least excess over the limits is not zero"
        return Solution(
            status=status,
            u=problem.complete(
                condensed.physical(plan), plan.u[:-1, problem.measured_inputs] if problem.measured_inputs else None
            ),
            slack=slack,
            cost=plan.cost * condensed.cost_scale,
            iterations=iterations,
            message=message,
            feasible=best is not None,
        )
