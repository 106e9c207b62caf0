"""The cards of published models: which there are, and whose name and score a file gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from published_files import PARAMETERS, save, state_of_shapes
from spvnas_ros.zoo.cards import CARDS, UnknownModel, card_of_sha256, find_card
from spvnas_ros.zoo.checkpoint import CheckpointError
from spvnas_ros.zoo.importers.projects import import_checkpoint


def test_a_card_gives_its_name_and_score_to_its_own_network_only(golden: Path, tmp_path: Path) -> None:
    source = save(state_of_shapes(golden / "keys_spvnas_SPVCNN_cr0.5.json"), tmp_path / "init")
    _, facts = import_checkpoint(source, card=find_card("spvcnn-30g"))
    assert (facts.name, facts.published_miou) == ("spvcnn-30g", 60.7)
    assert "SemanticKITTI_val_SPVCNN@30GMACs" in facts.provenance
    assert "non-commercial" in facts.provenance
    with pytest.raises(CheckpointError, match="this is not spvcnn-47g: the network has 5,449,267 parameters"):
        import_checkpoint(source, card=find_card("spvcnn-47g"))
    with pytest.raises(CheckpointError, match="an SPVNAS network was asked for"):
        import_checkpoint(source, card=find_card("spvnas-65g"))


def test_the_cards_are_the_fourteen_published_models() -> None:
    assert len({card.name for card in CARDS}) == len(CARDS) == 14
    assert sum(card.project == "mit-han-lab/spvnas" for card in CARDS) == 10
    assert all(url.startswith("https://") for card in CARDS for url in card.urls)
    assert [card.sha256_prefix for card in CARDS if card.sha256_prefix] == [
        "a2734d85",
        "519e7eff",
        "f7c0c5b4",
        "d68a68b7",
    ]
    for card in CARDS:
        if card.kind != "spvnas":
            assert card.parameters in PARAMETERS[card.kind]
        assert find_card(card.upstream.upper()) is card
    found = card_of_sha256("d68a68b7" + "0" * 56)
    assert found is not None
    assert found.miou == 68.7
    assert card_of_sha256("0" * 64) is None
    with pytest.raises(UnknownModel, match="did you mean spvnas-65g"):
        find_card("spvnas-64g")
