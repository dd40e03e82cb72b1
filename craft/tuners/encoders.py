"""Where the projections of an encoder's layer lie: one table, from which every method's default
targets come."""

from dataclasses import dataclass

PROJECTIONS = ("query", "key", "value", "attention_output", "up", "down")


@dataclass(frozen=True)
class Encoder:
    """The Linear modules of one layer, as paths within it, and the places of bottleneck adapters,
    as regular expressions of such paths.

    A matrix that holds several projections stands at each of them. `houlsby` are the modules that
    give a block's output, as it is added to the block's input; `pfeiffer` is the LayerNorm of the
    sum after the feed-forward block, None where there is none (pre-norm)."""

    query: str
    key: str
    value: str
    attention_output: str
    up: str
    down: str
    houlsby: str
    pfeiffer: str | None

    @property
    def query_and_value(self) -> list[str]:
        """Their names as peft's defaults have them; one where they are one matrix."""
        return list(dict.fromkeys(p.rpartition(".")[2] for p in (self.query, self.value)))

    def held_by(self, path: str) -> list[str]:
        """The projections that the matrix at a path within the layer holds."""
        return [name for name in PROJECTIONS if getattr(self, name) == path]


def _like_bert(query: str, key: str, value: str) -> Encoder:
    return Encoder(
        query=f"attention.self.{query}",
        key=f"attention.self.{key}",
        value=f"attention.self.{value}",
        attention_output="attention.output.dense",
        up="intermediate.dense",
        down="output.dense",
        houlsby=r"(attention\.)?output\.dropout",
        pfeiffer=r"output\.LayerNorm",
    )


_BERT = _like_bert("query", "key", "value")

# by `model_type`
ENCODERS: dict[str, Encoder] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
    "deberta": _like_bert("in_proj", "in_proj", "in_proj"),
    "deberta-v2": _like_bert("query_proj", "key_proj", "value_proj"),  # v3 as well
    "mpnet": Encoder(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        up="intermediate.dense",
        down="output.dense",
        houlsby=r"(attention|output)\.dropout",
        pfeiffer=r"output\.LayerNorm",
    ),
    "distilbert": Encoder(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        houlsby=r"(attention\.out_lin|ffn\.dropout)",
        pfeiffer=r"output_layer_norm",
    ),
    "modernbert": Encoder(
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        attention_output="attn.Wo",
        up="mlp.Wi",  # with the gate of its GLU
        down="mlp.Wo",
        houlsby=r"(attn\.out_drop|mlp\.Wo)",
        pfeiffer=None,
    ),
}
