"""How questions are asked: many phrasings of each kind, in English and in Chinese.

In a phrasing, {medium} is the picture, video or sound, {the} and {a} the thing that is asked about,
{plural} several of it, {measure} its Chinese measure word, {side} left or right.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrasings:
    """Ways to ask one kind of question.

    `any` fits every scene, `picture` needs something to be seen, `single` needs just one group,
    which it calls "it".
    """

    any: tuple[str, ...]
    picture: tuple[str, ...] = ()
    single: tuple[str, ...] = ()


ENGLISH: dict[str, Phrasings] = {
    "object": Phrasings(
        (
            "What do you see?",
            "What can you see?",
            "What is shown?",
            "Tell me what you see.",
            "What are we looking at?",
            "Name what you see.",
            "Which things do you see?",
            "What is there to see?",
            "What is in the picture?",
        ),
        (
            "What is in the {medium}?",
            "What does the {medium} show?",
            "What do you see in the {medium}?",
            "What is this?",
            "What's in this {medium}?",
        ),
        ("What is it?", "What thing is it?"),
    ),
    "colour": Phrasings(
        (
            "What colour {is} {the}?",
            "What color {is} {the}?",
            "Which colour {is} {the}?",
            "Tell me the colour of {the}.",
            "What is the colour of {the}?",
            "What is the color of {the}?",
            "Do you know the colour of {the}?",
            "Of what colour {is} {the}?",
        ),
        single=("What colour is it?", "What color is it?", "Which colour do you see?"),
    ),
    "count": Phrasings(
        (
            "How many {plural} are there?",
            "How many {plural} do you see?",
            "How many {plural} can you see?",
            "Count the {plural}.",
            "What is the number of {plural}?",
            "How many {plural}?",
            "Tell me how many {plural} there are.",
            "How many {plural} are shown?",
        ),
        ("How many {plural} are in the {medium}?",),
        ("How many are there?", "How many things do you see?", "How many do you see?"),
    ),
    "motion": Phrasings(
        (
            "How {does} {the} move?",
            "Which way {does} {the} move?",
            "Where {does} {the} go?",
            "In which direction {does} {the} move?",
            "What {is} {the} doing?",
            "Where {is} {the} going?",
            "Which way {is} {the} going?",
            "Tell me how {the} {move}.",
        ),
        single=("Which way does it move?", "Where is it going?", "How does it move?"),
    ),
    "place": Phrasings(
        (
            "What is on the {side}?",
            "Which thing is on the {side}?",
            "What do you see on the {side}?",
            "Tell me what is on the {side}.",
            "What's on the {side}?",
            "On the {side}, what do you see?",
            "Name the thing on the {side}.",
            "What is shown on the {side}?",
        )
    ),
    "order": Phrasings(
        (
            "What comes first?",
            "What comes first and what comes then?",
            "In what order do the things come?",
            "Which thing is shown first?",
            "What is the order of the things?",
            "What do you see first, and what then?",
            "Tell me the order of the things.",
            "What is shown first?",
            "What comes first, and what comes after it?",
        )
    ),
    "sound": Phrasings(
        (
            "What do you hear?",
            "What can you hear?",
            "What is making that noise?",
            "What sound is this?",
            "What is the sound?",
            "What makes the sound?",
            "Which sound do you hear?",
            "Tell me what you hear.",
            "What is that noise?",
            "Where does the sound come from?",
            "What does it sound like?",
            "What is there to hear?",
            "Listen. What is it?",
        )
    ),
    "match": Phrasings(
        (
            "Does the sound match the picture?",
            "Do the sound and the picture match?",
            "Does the sound belong to the picture?",
            "Do you hear what you see?",
            "Does the sound fit the picture?",
            "Does what you hear match what you see?",
            "Is it the right sound for the picture?",
            "Do sound and picture fit?",
            "Do you see what makes the sound?",
        )
    ),
    "presence": Phrasings(
        (
            "Do you see {a}?",
            "Can you see {a}?",
            "Is there {a} in the picture?",
            "Is {a} shown?",
            "Do you see any {plural}?",
            "Is there {a} to see?",
            "Can you see any {plural}?",
            "Are there any {plural} in the picture?",
            "Is {a} in the picture?",
        ),
        ("Does the {medium} show {a}?",),
    ),
    "audible": Phrasings(
        (
            "Do you hear {a}?",
            "Can you hear {a}?",
            "Is that the sound of {a}?",
            "Is {a} making the noise?",
            "Do you hear {a} {doing}?",
            "Can you hear {a} {doing}?",
            "Does the sound come from {a}?",
            "Is there {a} to hear?",
            "Tell me: do you hear {a}?",
        )
    ),
    "describe": Phrasings(
        (
            "Describe the {medium}.",
            "Tell me about the {medium}.",
            "What is going on?",
            "Please describe the {medium}.",
            "What is happening?",
            "What happens?",
            "Tell me what happens.",
            "What is the {medium} about?",
        ),
        ("Describe what you see.", "Say in one sentence what you see."),
    ),
    "both": Phrasings(
        (
            "What do you see and hear?",
            "What do you see and what do you hear?",
            "Tell me what you see and hear.",
            "What can you see and hear?",
            "Describe the picture and the sound.",
            "What is there to see and to hear?",
            "Describe what you see and what you hear.",
            "What is in the picture and what is the sound?",
        )
    ),
}

CHINESE: dict[str, Phrasings] = {
    "object": Phrasings(
        (
            "你看到什么？",
            "你看到了什么？",
            "画面里有什么？",
            "能看到什么？",
            "告诉我你看到什么。",
            "看到的是什么？",
        ),
        ("{medium}里有什么？", "这是什么？", "你在{medium}里看到什么？"),
        ("它是什么？",),
    ),
    "colour": Phrasings(
        (
            "{the}是什么颜色？",
            "{the}是什么颜色的？",
            "{the}的颜色是什么？",
            "你看到的{the}是什么颜色？",
            "告诉我{the}的颜色。",
        ),
        single=("它是什么颜色？", "这是什么颜色？"),
    ),
    "count": Phrasings(
        (
            "有几{measure}{the}？",
            "你看到几{measure}{the}？",
            "一共有几{measure}{the}？",
            "{the}有几{measure}？",
            "告诉我有几{measure}{the}。",
            "有多少{measure}{the}？",
        ),
        ("{medium}里有几{measure}{the}？",),
        ("一共有几个？", "有几个？"),
    ),
    "motion": Phrasings(
        (
            "{the}怎么动？",
            "{the}向哪里移动？",
            "{the}往哪边走？",
            "{the}在做什么？",
            "告诉我{the}怎么动。",
            "{the}的运动方向是什么？",
        ),
        single=("它怎么动？", "它向哪里移动？"),
    ),
    "place": Phrasings(
        (
            "{side}是什么？",
            "{side}有什么？",
            "你在{side}看到什么？",
            "什么在{side}？",
            "告诉我{side}是什么。",
        )
    ),
    "order": Phrasings(
        (
            "先出现什么？",
            "先看到什么，然后看到什么？",
            "出现的顺序是什么？",
            "什么先出现？",
            "告诉我出现的顺序。",
            "先是什么，然后是什么？",
        )
    ),
    "sound": Phrasings(
        (
            "你听到什么？",
            "你听到了什么？",
            "这是什么声音？",
            "什么在发出声音？",
            "能听到什么？",
            "告诉我你听到什么。",
            "声音是从哪里来的？",
        )
    ),
    "match": Phrasings(
        (
            "声音和画面一致吗？",
            "声音和画面对得上吗？",
            "这个声音是画面里的东西发出的吗？",
            "你听到的和看到的一样吗？",
            "声音适合画面吗？",
        )
    ),
    "presence": Phrasings(
        (
            "你看到{the}吗？",
            "画面里有{the}吗？",
            "能看到{the}吗？",
            "你看到了{the}吗？",
            "画面里有没有{the}？",
        ),
        ("{medium}里能看到{the}吗？",),
    ),
    "audible": Phrasings(
        (
            "你听到{the}吗？",
            "你听到{the}的声音吗？",
            "能听到{the}吗？",
            "这是{the}的声音吗？",
            "有没有{the}的声音？",
            "声音是{the}发出的吗？",
        )
    ),
    "describe": Phrasings(
        (
            "描述这个{medium}。",
            "请描述这个{medium}。",
            "发生了什么？",
            "告诉我发生了什么。",
            "这个{medium}讲什么？",
        ),
        ("描述你看到的。", "用一句话说你看到什么。"),
    ),
    "both": Phrasings(
        (
            "你看到什么，听到什么？",
            "你看到和听到什么？",
            "告诉我你看到和听到什么。",
            "描述画面和声音。",
            "画面里有什么，声音是什么？",
        )
    ),
}
