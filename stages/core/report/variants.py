"""The models that every table, chart and folder holds, in the order in which they are made and shown."""

VARIANTS = (
    "teacher",
    "hard_label",
    "baseline",
    "distilled",
    "tuned",
    "pruned",
    "finetuned",
    "int8",
    "teacher_pruned",
)
