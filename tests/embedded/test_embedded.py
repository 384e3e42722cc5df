"""The model, SAEs and records that ship are small, alive, and as their card says."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from sae_lens import SAE
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from streamer.embedded import LAYERS, MODEL, RECORDS, SAES

HELDOUT = Path(__file__).parent / "data" / "embedded_heldout.txt"
DOMAINS = ("adversarial", "entity", "logical", "temporal")
ROW = 256


def read_records() -> list[dict[str, Any]]:
    return [r for d in DOMAINS for r in json.loads((RECORDS / f"{d}.json").read_text("utf-8"))]


def card_numbers() -> dict[str, Any]:
    card = (MODEL.parent / "MODEL_CARD.md").read_text("utf-8")
    numbers: dict[str, Any] = json.loads(card.split("```json\n")[1].split("```")[0])
    return numbers


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket.connect", _refuse)
        yield


def _refuse(*_: object) -> None:
    raise AssertionError("the embedded model must load without the network")


@pytest.fixture(scope="module")
def bridge(offline: None) -> TransformerBridge:
    return TransformerBridge.boot_transformers(str(MODEL), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def saes(offline: None) -> dict[int, SAE[Any]]:
    return {layer: SAE.load_from_disk(SAES.format(layer=layer)) for layer in LAYERS}


@pytest.fixture(scope="module")
def heldout(bridge: TransformerBridge) -> dict[str, Any]:
    """Residuals of the held-out tokens but BOS, the mean loss, and the tokens' own entropy."""
    losses: list[torch.Tensor] = []
    counts: Counter[int] = Counter()
    residuals: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for text in HELDOUT.read_text("utf-8").splitlines():
        ids = torch.tensor([bridge.tokenizer(text)["input_ids"][:ROW]])
        logits, cache = forward(bridge, ids)
        following = ids[0, 1:]
        losses.append(
            torch.nn.functional.cross_entropy(logits[0, :-1], following, reduction="none")
        )
        counts.update(following.tolist())
        for layer in LAYERS:
            residuals[layer].append(cache[layer][0, 1:])
    shares = [n / counts.total() for n in counts.values()]
    return {
        "loss": torch.cat(losses).mean().item(),
        "entropy": -sum(p * math.log(p) for p in shares),
        "residuals": {layer: torch.cat(parts) for layer, parts in residuals.items()},
    }


@torch.no_grad()
def forward(
    bridge: TransformerBridge, ids: torch.Tensor
) -> tuple[Float[torch.Tensor, "batch position vocab"], dict[int, torch.Tensor]]:
    names = {f"blocks.{layer}.hook_resid_post": layer for layer in LAYERS}
    logits, cache = bridge.run_with_cache(ids, names_filter=list(names))
    return logits, {layer: cache[name] for name, layer in names.items()}


@pytest.fixture(scope="module")
def answers(bridge: TransformerBridge) -> dict[str, Any]:
    """For each record the summed log-probability of both answers, and all last residuals.

    Padding stands on the right, where no real token of a causal model sees it.
    """
    records = read_records()
    logp: dict[str, list[float]] = {}
    last: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for key in ("fact", "hallucination"):
        texts = [f"{r['prompt']} {r[key]}" for r in records]
        ids = bridge.tokenizer(texts, return_tensors="pt", padding=True)["input_ids"]
        logits, cache = forward(bridge, ids)
        for row, record in enumerate(records):
            before = bridge.tokenizer(record["prompt"])["input_ids"]
            start, end = len(before), len(bridge.tokenizer(texts[row])["input_ids"])
            assert ids[row, :start].tolist() == before
            chosen = logits[row, start - 1 : end - 1].log_softmax(-1)
            answer = chosen.gather(1, ids[row, start:end, None]).sum().item()
            logp.setdefault(record["id"], []).append(answer)
            for layer in LAYERS:
                last[layer].append(cache[layer][row, end - 1])
                if key == "fact":
                    last[layer].append(cache[layer][row, start - 1])
    return {"logp": logp, "last": {layer: torch.stack(parts) for layer, parts in last.items()}}


def explained_variance(sae: SAE[Any], x: Float[torch.Tensor, "token d_model"]) -> float:
    with torch.no_grad():
        error = (x - sae.decode(sae.encode(x))).square().sum()
    return 1 - float(error / (x - x.mean(0)).square().sum())


def mean_l0(sae: SAE[Any], x: Float[torch.Tensor, "token d_model"]) -> float:
    with torch.no_grad():
        return float((sae.encode(x) > 0).sum(1).float().mean())


def test_everything_together_weighs_at_most_eight_megabytes() -> None:
    files = [f for part in ("model", "saes", "records") for f in (MODEL.parent / part).rglob("*")]
    assert sum(f.stat().st_size for f in files if f.is_file()) <= 8e6


def test_there_are_fifty_well_formed_records_of_each_domain() -> None:
    records = read_records()
    assert Counter(r["domain"] for r in records) == dict.fromkeys(DOMAINS, 50)
    assert len({r["id"] for r in records}) == len({r["prompt"] for r in records}) == 200
    for r in records:
        assert list(r) == ["id", "domain", "complexity", "prompt", "fact", "hallucination"]
        assert 1 <= r["complexity"] <= 10
        assert all(r[key] == r[key].strip() != "" for key in ("prompt", "fact", "hallucination"))
        assert r["fact"].lower() != r["hallucination"].lower()


def test_the_tokenizer_puts_bos_first_by_itself_and_loses_no_byte() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    assert tokenizer.is_fast
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<bos>",
        "<eos>",
        "<pad>",
    )
    text = "Zürich, 東京 and\n\tnaïve 1984 \U0001f642"
    with_bos = tokenizer(text)["input_ids"]
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert with_bos == [tokenizer.bos_token_id, *plain]
    assert tokenizer.decode(plain) == text


def test_the_bridge_gives_the_residuals_of_the_hugging_face_model(
    bridge: TransformerBridge,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    kept: dict[int, torch.Tensor] = {}
    for layer in LAYERS:
        model.model.layers[layer].register_forward_hook(
            lambda _m, _a, output, layer=layer: kept.__setitem__(layer, output)
        )
    text = " ".join(r["prompt"] for r in read_records()[:20])
    ids = bridge.tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.shape[1] > model.config.sliding_window
    with torch.no_grad():
        model(ids)
    _, cache = forward(bridge, ids)
    for layer in LAYERS:
        torch.testing.assert_close(cache[layer], kept[layer], rtol=1e-4, atol=1e-4)


def test_each_sae_says_which_hook_it_reads(saes: dict[int, SAE[Any]]) -> None:
    for layer, sae in saes.items():
        assert sae.cfg.architecture() == "jumprelu"
        assert (sae.cfg.d_in, sae.cfg.d_sae) == (128, 1024)
        assert sae.cfg.metadata.hook_name == f"blocks.{layer}.hook_resid_post"
        assert sae.cfg.metadata.model_name == "streamer-embedded"
        assert sae.cfg.metadata.prepend_bos is True


def test_the_heldout_loss_is_well_below_the_unigram_entropy(heldout: dict[str, Any]) -> None:
    assert heldout["loss"] < 0.8 * heldout["entropy"]


def test_the_fact_is_likelier_on_at_least_four_in_five_records(answers: dict[str, Any]) -> None:
    wins = [fact > false for fact, false in answers["logp"].values()]
    assert sum(wins) / len(wins) >= 0.8


def test_each_sae_is_sparse_and_faithful_on_heldout_text(
    heldout: dict[str, Any], saes: dict[int, SAE[Any]]
) -> None:
    for layer, sae in saes.items():
        assert 10 <= mean_l0(sae, heldout["residuals"][layer]) <= 60
        assert explained_variance(sae, heldout["residuals"][layer]) >= 0.8


def test_each_sae_is_sparse_where_the_records_are_read(
    answers: dict[str, Any], saes: dict[int, SAE[Any]]
) -> None:
    for layer, sae in saes.items():
        assert answers["last"][layer].shape[0] == 600
        assert 10 <= mean_l0(sae, answers["last"][layer]) <= 60


def test_the_card_gives_the_numbers_that_the_files_give(
    heldout: dict[str, Any], answers: dict[str, Any], saes: dict[int, SAE[Any]]
) -> None:
    card = card_numbers()
    assert card["model"]["heldout_loss"] == pytest.approx(heldout["loss"], abs=0.005)
    assert card["model"]["unigram_entropy"] == pytest.approx(heldout["entropy"], abs=0.005)
    for domain in DOMAINS:
        wins = [a > b for key, (a, b) in answers["logp"].items() if key.startswith(domain)]
        assert card["records"][domain]["fact_likelier"] == pytest.approx(sum(wins) / 50)
    for layer, sae in saes.items():
        row, x = card["saes"][str(layer)], heldout["residuals"][layer]
        assert row["l0"] == pytest.approx(mean_l0(sae, x), abs=0.2)
        assert row["explained_variance"] == pytest.approx(explained_variance(sae, x), abs=0.002)
        assert row["records_l0"] == pytest.approx(mean_l0(sae, answers["last"][layer]), abs=0.2)
