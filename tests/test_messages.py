"""Hints in error messages name the choice that was meant."""

from __future__ import annotations

import pytest

from keras_preact.messages import did_you_mean

NAMES = ("include_top", "weights", "pooling", "classes", "norm", "norm_groups", "drop_path")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("weight", "weights"),
        ("Weights", "weights"),
        ("num_classes", "classes"),
        ("norm_layer", "norm"),
        ("norm_group", "norm_groups"),
        ("drop_path_rate", "drop_path"),
    ],
)
def test_the_closest_name_is_suggested(name, meant):
    assert did_you_mean(name, NAMES) == f" Did you mean `{meant}`?"


def test_without_a_close_name_there_is_no_hint():
    assert did_you_mean("momentum", NAMES) == ""
    assert did_you_mean("momentum", ()) == ""


def test_of_equally_close_names_the_one_that_begins_alike_or_the_first_is_suggested():
    assert did_you_mean("net21", ["net18", "net20", "net34"]) == " Did you mean `net20`?"
    assert did_you_mean("netx", ["neta", "netb"]) == " Did you mean `neta`?"


def test_the_part_before_a_slash_may_be_left_out():
    hint = did_you_mean("resnetv2_50", ["bit/R50x1_224", "timm/resnetv2_50.a1h"], quote="'")
    assert hint == " Did you mean 'timm/resnetv2_50.a1h'?"
