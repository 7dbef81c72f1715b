from hydralign.terminal_text import harmless


def test_what_a_terminal_would_obey_is_not_shown():
    assert harmless("a\x1b[2J\tb\nc\r\x07é🙂\x9b\x7f") == "a�[2J\tb\nc��é🙂��"


def test_what_would_turn_the_text_around_is_not_shown():
    assert harmless("a\u202eb\u2066c\u2069") == "a�b�c�"


def test_half_of_a_pair_of_surrogates_can_be_printed():
    assert harmless("a\ud800").encode() == "a�".encode()


def test_all_scripts_stay_as_they_are():
    for text in (
        "1\u202f000\xa0€",
        "日本\u3000語",
        "می\u200cخواهم",
        "👩\u200d💻",
        "co\xadop",
        "א\u200e",
    ):
        assert harmless(text) == text
