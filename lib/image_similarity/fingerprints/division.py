"""A traced network, divided at one of its nodes: one module up to the node, and one for what follows."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn


@dataclass(frozen=True)
class Division:
    """Two modules with the network's own parameters: ``head(*trunk(pictures))`` is the network."""

    trunk: nn.Module
    """Pictures -> a tuple: the node's output, then other values that the head needs (`carried`)."""
    head: nn.Module
    """All values of the tuple -> the network's last output. It may overwrite them."""
    carried: int
    """Values besides the node's output. 0: the head is a function of this output alone."""


def divided(traced: fx.GraphModule, node: str, last: str) -> Division:
    """``traced`` returns a mapping, whose entries ``node`` and ``last`` are the two outputs. They may be the same."""
    outputs = next(each for each in traced.graph.nodes if each.op == "output").args[0]
    tapped, final = outputs[node], outputs[last]
    before, needed = _ancestors(tapped), _ancestors(final)
    after = [each for each in traced.graph.nodes if each in needed and each not in before]
    carried = [each for each in traced.graph.nodes if each in before - {tapped} and needs(after, each)]
    trunk = _graph([each for each in traced.graph.nodes if each in before], [], [tapped, *carried])
    head = _graph(after, [tapped, *carried], [final])
    return Division(fx.GraphModule(traced, trunk).eval(), fx.GraphModule(traced, head).eval(), len(carried))


def needs(nodes: Sequence[fx.Node], value: fx.Node) -> bool:
    """Whether one of ``nodes`` takes ``value``."""
    return any(value in each.all_input_nodes for each in nodes)


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """``node``, and all that its value is computed from."""
    ancestors, open_nodes = set[fx.Node](), [node]
    while open_nodes:
        current = open_nodes.pop()
        if current not in ancestors:
            ancestors.add(current)
            open_nodes += current.all_input_nodes
    return ancestors


def _graph(nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> fx.Graph:
    """A graph of copies of ``nodes``, in their order. A single output is returned as such, if there are inputs."""
    graph = fx.Graph()
    copies = {each: graph.placeholder(f"input_{index}") for index, each in enumerate(inputs)}
    for each in nodes:
        copies[each] = graph.node_copy(each, copies.__getitem__)
    values = tuple(copies[each] for each in outputs)
    graph.output(values[0] if inputs else values)
    return graph
