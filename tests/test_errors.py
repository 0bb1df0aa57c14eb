from cal_bench.errors import UserError, suggest


def test_a_near_word_is_suggested():
    assert suggest("chartq", ["chartqa", "docvqa"]) == " Did you mean 'chartqa'?"


def test_case_does_not_matter_and_the_known_spelling_is_given():
    assert suggest("BASELINE", ["Baseline"]) == " Did you mean 'Baseline'?"


def test_nothing_is_suggested_for_a_far_word_or_for_no_words():
    assert suggest("zzz", ["chartqa"]) == ""
    assert suggest("chartqa", []) == ""


def test_a_user_error_is_its_message():
    assert str(UserError("There is no benchmark 'x'.")) == "There is no benchmark 'x'."
