"""How an app is tested, here that of `word_count.py`: its own objects, a directory that is thrown away, no waiting.

pytest examples/test_word_count.py
"""

from examples.word_count import app, count, counts, lines, words


async def test_words_are_counted_however_they_are_written() -> None:
    """`idle` returns when everything in the log is handled and committed."""
    async with app.testing() as t:
        lines.send_many(["The log,", "the LOG: the thing"])
        await t.idle()
        assert dict(counts.items()) == {"the": 3, "log": 2, "thing": 1}
        assert t.sent(words) == ["the", "log", "the", "log", "the", "thing"]
        assert t.dead_letters(count) == []


async def test_a_crash_counts_nothing_twice() -> None:
    """What was not committed is handled again, and what was is not."""
    async with app.testing() as t:
        for line in ["one", "one two"]:
            lines.send(line)
            await t.idle()
            await t.crash()
        assert dict(counts.items()) == {"one": 2, "two": 1}
