"""What the commands print: the main numbers of each study, in a few lines."""

from collections.abc import Callable


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def scores(result: dict) -> list[str]:
    lines = []
    for form in list(result)[:2]:
        for kind, found in result[form].items():
            flat = {
                f"{layer}.{head}": (value, found["standard_error"][layer][head])
                for layer, row in enumerate(found["mean"])
                for head, value in enumerate(row)
            }
            top = ", ".join(f"{head} {flat[head][0]:.3f} ± {flat[head][1]:.3f}" for head in found["ranking"][:6])
            lines.append(f"{kind:>14} ({form}): {top}")
    for recipe, kinds in result.get("against published", {}).items():
        for kind, found in kinds.items():
            lines.append(
                f"{kind:>14}, published ({recipe}): {found['shared']} of {found['top']} are ours; published/ours "
                + ", ".join(f"{row['head']} {row['published']:.3f}/{row['ours']:.3f}" for row in found["heads"])
            )
    return lines


def diagonal(result: dict) -> list[str]:
    tested, others, null = result["tested"], result["others"], result["null_std"]
    return [
        f"diagonal z: induction with previous-token heads {brief(tested, 1)} ({tested['n']} pairs that can "
        f"compose), {result['tested_in_null_std']['mean']:.0f} null standard deviations",
        f"            other pairs {brief(others, 1)} ({others['n']}), Gaussian heads 0 ± {null:.3f}",
    ]


def subspace(result: dict) -> list[str]:
    lines = ["generalised cosine (largest / root mean square), by rank"]
    groups = list(dict.fromkeys(group for found in result.values() for group in found))
    for group in groups:
        cells = [
            f"{rank}: {found[group]['largest']['mean']:.2f} / {found[group]['rms']['mean']:.2f}"
            for rank, found in result.items()
            if group in found
        ]
        lines.append(f"    {group:28}" + "   ".join(cells))
    return lines


def shuffle(result: dict) -> list[str]:
    lines = [f"wrong in the second copy: {percent(result['as it is']['error']['mean'])} as it is"]
    for component in ("QK", "OV"):
        for count, found in result[component]["counts"].items():
            cells = [
                f"{label} {percent(found[label]['error']['mean'])} ± {100 * found[label]['error']['std']:.1f}"
                for label in found
            ]
            beyond = "" if int(count) <= result[component]["of that kind"] else "  (more than there are)"
            lines.append(f"    {component} of {count:>2} heads: " + ", ".join(cells) + beyond)
    return lines


def project(result: dict) -> list[str]:
    lines = [f"wrong in the second copy: {percent(result['as it is']['error']['mean'])} as it is; (random subspaces)"]
    for component in ("QK", "OV"):
        for rank, found in result[component].items():
            cells = [
                f"{way} {percent(found[way]['error']['mean'])} ({percent(found[way + ' random']['error']['mean'])})"
                for way in ("without", "only")
            ]
            lines.append(f"    {component}, rank {rank:>3}: " + ", ".join(cells))
    return lines


def paths(result: dict) -> list[str]:
    lines = ["wrong in the second copy when previous-token heads do not reach the induction heads'"]
    for into, label in (("q", "queries"), ("k", "keys"), ("v", "values"), ("qkv", "all three")):
        cells = [
            f"{how} {percent(result[f'{into}, {how}']['error']['mean'])}"
            for how in ("all paths", "direct", "other heads")
        ]
        lines.append(f"    {label:10} " + ", ".join(cells))
    return lines


def doubts(result: dict) -> list[str]:
    lines = []
    for component in ("QK", "OV"):
        found = result[component]
        one, five = found["one permutation"], found["five sequences"]
        lines += [
            f"{component}, {found['count']} heads of which {found['of that kind']} are of that kind",
            f"    one permutation:  {brief(one['all'])}; best head stays {brief(one['best head stays'])}, moves "
            f"{brief(one['best head moves'])}",
            f"    five sequences:   {brief(five)}",
            f"    notebook control: with important heads {brief(found['control']['with important heads'])}, without "
            f"{brief(found['control']['without'])}",
            f"    biases:           {brief(found['biases']['with biases'])} moved too, "
            f"{brief(found['biases']['weights only'])} left behind",
        ]
    lines.append(
        f"z of pairs that can compose {brief(result['layer order']['can compose'], 1)}, that cannot "
        f"{brief(result['layer order']['cannot'], 1)}"
    )
    for label, found in result["gains"].items():
        lines.append(
            f"gains {label}: z {brief(found['z'], 1)}, "
            + ", ".join(f"{key} {percent(found[key])}" for key in found if key != "z")
        )
    for label, found in result["whose subspace"].items():
        cells = [
            f"rank {rank}: without {percent(row['without'])}, only {percent(row['only'])}"
            for rank, row in list(found.items())[::3]
        ]
        lines.append(f"outputs, {label}: " + "; ".join(cells))
    many = result["how many edited"]
    lines.append(
        f"outputs at rank {many['rank']}, by heads edited ({many['of that kind']} are previous-token heads): "
        + ", ".join(
            f"{count}: without {percent(row['without'])}, only {percent(row['only'])}"
            for count, row in many["counts"].items()
        )
    )
    null = result["null space"]
    lines.append(
        f"dense singular vectors after rounding: {null['within head_dim']:.3f} the same within head_dim, "
        f"{null['the next as many']:.3f} beyond"
    )
    return lines


def brief(found: dict, scale: float = 100) -> str:
    unit = " %" if scale == 100 else ""
    digits = 1 if scale == 100 else 2
    return "none" if not found["n"] else f"{scale * found['mean']:.{digits}f} ± {scale * found['std']:.{digits}f}{unit}"


LINES: dict[str, Callable[[dict], list[str]]] = {
    "scores": scores,
    "diagonal": diagonal,
    "subspace": subspace,
    "shuffle": shuffle,
    "project": project,
    "paths": paths,
    "doubts": doubts,
}


def headlines(results: dict[str, dict], bench) -> dict[str, float]:
    """The numbers that a summary over seeds shows; errors are shares of the predictions in the second copy."""
    rows = {
        "induction heads": len(bench.induction),
        "previous-token heads": len(bench.previous),
        "best induction score": bench.scores.mean["induction"].max().item(),
        "best previous-token score": bench.scores.mean["previous token"].max().item(),
        "error as it is": results["shuffle"]["as it is"]["error"]["mean"],
        "diagonal z, tested pairs": results["diagonal"]["tested"]["mean"],
        "the same in null standard deviations": results["diagonal"]["tested_in_null_std"]["mean"],
        "diagonal z, other pairs": results["diagonal"]["others"]["mean"],
    }
    for rank, groups in results["subspace"].items():
        for group in ("across", "other heads", "random"):
            rows[f"rms cosine at rank {rank}, {group}"] = groups[group]["rms"]["mean"]
    for component, heads in (("QK", bench.induction), ("OV", bench.previous)):
        found = results["shuffle"][component]["counts"].get(str(len(heads)), {})
        for label, copying in found.items():
            rows[f"error, {component} of all {component_name(component)} heads {label}"] = copying["error"]["mean"]
        half = str(
            min(
                (int(rank) for rank in results["project"][component]),
                key=lambda rank: abs(rank - bench.model.config.head_dim),
            )
        )
        for label, copying in results["project"][component][half].items():
            rows[f"error, {component} {label} subspace of rank {half}"] = copying["error"]["mean"]
    for label in (
        "q, all paths",
        "k, all paths",
        "v, all paths",
        "q, direct",
        "k, direct",
        "v, direct",
        "k, other heads",
    ):
        rows[f"error, cut into {label}"] = results["paths"][label]["error"]["mean"]
    return rows


def component_name(component: str) -> str:
    return {"QK": "induction", "OV": "previous-token"}[component]


def summary_lines(summary: dict, seeds: int) -> list[str]:
    """A table: mean and standard deviation over the seeds."""
    return [f"{'':58}{'mean':>8} ± std of {seeds} seed{'s' * (seeds > 1)}"] + [
        f"{row:58}{found['mean']:8.3f} ± {found['std']:.3f}" for row, found in summary.items()
    ]
