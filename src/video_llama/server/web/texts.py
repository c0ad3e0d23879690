"""Every text of the page, in three languages."""

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ru", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "ru": "Русский", "zh": "中文"}


def language_of(wanted: str | None) -> Language:
    """The first language of a browser that accepts "ru-RU,ru;q=0.9"; English if it is not ours."""
    first = (wanted or "").lower().partition(",")[0].partition("-")[0]
    return next((known for known in LANGUAGES if known == first), "en")


@dataclass(frozen=True)
class Texts:
    """What stands where.

    `streams` are words for the states of a medium's picture and sound, `reasons` for the codes of
    refusals, before the server's own words, which are English.
    """

    language: str
    about: str
    conversation: str
    welcome: str
    ask: str
    camera: str
    take: str
    stop: str
    retry: str
    clear: str
    sample_questions: tuple[str, ...]
    options: str
    temperature: str
    temperature_info: str
    length: str
    length_info: str
    frames: str
    frames_info: str
    sound: str
    sound_info: str
    reading: str
    stopped: str
    cut: str
    late: str
    failed: str
    lost: str
    no_question: str
    seen: str
    seen_before: str
    picture_of: str
    sound_of: str
    moment: str
    number_of_frames: str
    mel: str
    streams: dict[str, str]
    reasons: dict[str, str]


TEXTS: dict[Language, Texts] = {
    "en": Texts(
        language="Language",
        about="Drop a video, a sound or a picture, and ask about it.",
        conversation="Conversation",
        welcome="Add media below, or begin with a sample.",
        ask="Ask about your media",
        camera="Camera, with sound",
        take="Add to the question",
        stop="Stop",
        retry="Retry",
        clear="New conversation",
        sample_questions=(
            "What do you see and what do you hear?",
            "Which way does the dog move?",
            "What do you hear?",
            "What is in the picture?",
        ),
        options="Options",
        temperature="Temperature",
        temperature_info="0: always the likeliest word",
        length="Longest answer",
        length_info="in tokens",
        frames="Frames",
        frames_info="looked at in a video",
        sound="Use the sound",
        sound_info="of videos",
        reading="Reading the media …",
        stopped="stopped",
        cut="cut off: the longest answer was reached",
        late="cut off: the time for an answer was over",
        failed="This did not work",
        lost="There is no question to ask again.",
        no_question="Type a question about the media.",
        seen="What was seen and heard",
        seen_before="Seen and heard as above",
        picture_of="picture",
        sound_of="sound",
        moment="{:.1f} s",
        number_of_frames="frames: {}",
        mel="The sound as the model gets it: time to the right, pitch upwards, brighter is louder",
        streams={
            "used": "used",
            "absent": "none there",
            "silent": "digital silence, not used",
            "too short": "too short, not used",
            "failed": "damaged, not used",
            "left out": "left out",
            "not used (the model has no audio branch)": "not used, this model cannot hear",
        },
        reasons={},
    ),
    "ru": Texts(
        language="Язык",
        about="Перетащите сюда видео, звук или картинку и спросите о них.",
        conversation="Разговор",
        welcome="Добавьте файл внизу или начните с примера.",
        ask="Вопрос о файлах",
        camera="Камера со звуком",
        take="Добавить к вопросу",
        stop="Стоп",
        retry="Ещё раз",
        clear="Новый разговор",
        sample_questions=(
            "What do you see and what do you hear?",
            "Which way does the dog move?",
            "What do you hear?",
            "What is in the picture?",
        ),
        options="Настройки",
        temperature="Температура",
        temperature_info="0: всегда самое вероятное слово",
        length="Длина ответа",
        length_info="не больше, в токенах",
        frames="Кадры",
        frames_info="сколько смотреть в видео",
        sound="Слушать звук",
        sound_info="у видео",
        reading="Читаю файлы …",
        stopped="остановлено",
        cut="оборвано: достигнута наибольшая длина ответа",
        late="оборвано: время ответа вышло",
        failed="Не получилось",
        lost="Нет вопроса, который можно повторить.",
        no_question="Напишите вопрос о файлах.",
        seen="Что модель видела и слышала",
        seen_before="Видела и слышала то же, что выше",
        picture_of="изображение",
        sound_of="звук",
        moment="{:.1f} с",
        number_of_frames="кадров: {}",
        mel="Звук, как его получает модель: вправо время, вверх высота, светлее значит громче",
        streams={
            "used": "использовано",
            "absent": "нет",
            "silent": "цифровая тишина, не использовано",
            "too short": "слишком коротко, не использовано",
            "failed": "повреждено, не использовано",
            "left out": "отключено",
            "not used (the model has no audio branch)": "не использовано: модель не слышит",
        },
        reasons={
            "corrupt_media": "файл повреждён",
            "unsupported_media": "такие файлы здесь не читаются",
            "media_limit": "файл слишком велик или слишком долго читался",
            "media_not_found": "файла больше нет, добавьте его ещё раз",
            "too_large": "файл слишком велик",
            "empty_file": "файл пуст",
            "too_many_media": "в разговоре слишком много файлов",
            "context_length_exceeded": "разговор стал слишком длинным, начните новый",
            "queue_full": "сервер занят, попробуйте чуть позже",
            "overdue": "ответ не успел начаться, попробуйте чуть позже",
            "storage_full": "на сервере нет места для файлов, попробуйте позже",
            "shutting_down": "сервер останавливается",
            "fault": "ошибка на сервере",
        },
    ),
    "zh": Texts(
        language="语言",
        about="拖入视频、声音或图片，然后提问。",
        conversation="对话",
        welcome="在下方添加文件，或从示例开始。",
        ask="就这些文件提问",
        camera="摄像头（含声音）",
        take="加入问题",
        stop="停止",
        retry="重试",
        clear="新对话",
        sample_questions=(
            "你看到什么，听到什么？",
            "狗往哪边移动？",
            "你听到什么？",
            "图片里有什么？",
        ),
        options="选项",
        temperature="温度",
        temperature_info="0：总是取最可能的词",
        length="最长回答",
        length_info="词元数",
        frames="帧数",
        frames_info="每个视频查看多少帧",
        sound="使用声音",
        sound_info="视频中的声音",
        reading="正在读取媒体……",
        stopped="已停止",
        cut="已截断：达到最长回答",
        late="已截断：回答时间已到",
        failed="没有成功",
        lost="没有可以重试的问题。",
        no_question="请输入关于文件的问题。",
        seen="看到和听到的内容",
        seen_before="所见所闻同上",
        picture_of="画面",
        sound_of="声音",
        moment="{:.1f} 秒",
        number_of_frames="帧数：{}",
        mel="模型得到的声音：向右为时间，向上为音高，越亮越响",
        streams={
            "used": "已使用",
            "absent": "没有",
            "silent": "数字静音，未使用",
            "too short": "太短，未使用",
            "failed": "已损坏，未使用",
            "left out": "未启用",
            "not used (the model has no audio branch)": "未使用：此模型听不到声音",
        },
        reasons={
            "corrupt_media": "文件已损坏",
            "unsupported_media": "不支持这种文件",
            "media_limit": "文件太大，或读取时间太长",
            "media_not_found": "文件已不存在，请重新添加",
            "too_large": "文件太大",
            "empty_file": "文件是空的",
            "too_many_media": "对话中的文件太多",
            "context_length_exceeded": "对话太长，请开始新对话",
            "queue_full": "服务器繁忙，请稍后再试",
            "overdue": "回答未能及时开始，请稍后再试",
            "storage_full": "服务器没有存放文件的空间，请稍后再试",
            "shutting_down": "服务器正在关闭",
            "fault": "服务器出错",
        },
    ),
}
