from __future__ import annotations

import torch

from fusion_diff.fewshot.classes import MAX_TOP_TOKENS, ClassHead, top_tokens


def flawed(seed: int, channel: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens, five of them shifted along a channel, and evidence that is high on these five."""
    tokens = torch.randn(100, 8, generator=torch.Generator().manual_seed(seed))
    tokens[:5] += 8 * torch.eye(8)[channel]
    return tokens, tokens.norm(dim=1)


def head() -> ClassHead:
    made = [
        (flawed(seed, channel), label) for channel, label in enumerate(("sound", "crack", "pore")) for seed in (1, 2)
    ]
    return ClassHead.fit([t for (t, _), _ in made], [e for (_, e), _ in made], [label for _, label in made], "sound")


def test_the_strongest_tokens_tell_the_other_classes_apart():
    for channel, label in ((1, "crack"), (2, "pore")):
        tokens, evidence = flawed(77, channel)
        assert head().predict(top_tokens(tokens, evidence), score=0.1) == label


def test_what_scores_as_authentic_is_called_so_whatever_its_tokens():
    tokens, evidence = flawed(77, 1)
    assert head().predict(top_tokens(tokens, evidence), score=0.5) == "sound"


def test_without_other_classes_the_answer_is_yes_or_no():
    tokens, evidence = flawed(0, 0)
    alone = ClassHead.fit([tokens], [evidence], ["sound"], "sound")
    assert alone.names == ()
    assert alone.prototypes.shape == (0, 8)
    assert alone.predict(tokens[:5], score=0.9) == "sound"
    assert alone.predict(tokens[:5], score=0.1) == "not sound"


def test_the_authentic_class_has_no_prototype():
    assert head().names == ("crack", "pore")
    assert head().prototypes.shape == (2, 8)


def test_top_tokens_are_those_of_highest_evidence_and_bounded_in_number():
    tokens = torch.arange(200.0)[:, None]
    assert sorted(top_tokens(tokens, -tokens[:, 0]).flatten().tolist()) == [0, 1]
    assert len(top_tokens(torch.zeros(100_000, 1), torch.zeros(100_000))) == MAX_TOP_TOKENS
