"""What a row may write next, what it must write next, and when it has ended.

`Constraint` is the joint to the decode loop, which knows no constraint by name. `CodeGrammar` and `MediaGrammar` let a
row write whole pictures and sounds, `FormText` holds a text to a form, `StopStrings` ends a text at a string,
`Thinking` has it begin with a thought of limited length, and `Together` joins several in a row.
"""

from mmlm.generation.constraints.base import Allowed, Constraint, RefusedError, Unending
from mmlm.generation.constraints.codes import CodeGrammar, GenerationMode, MediaGrammar
from mmlm.generation.constraints.form_text import FormGrammar, FormText
from mmlm.generation.constraints.stop_strings import StopStrings
from mmlm.generation.constraints.thinking import Thinking, Thinks
from mmlm.generation.constraints.together import Together

__all__ = [
    "Allowed", "CodeGrammar", "Constraint", "FormGrammar", "FormText", "GenerationMode", "MediaGrammar", "RefusedError",
    "StopStrings", "Thinking", "Thinks", "Together", "Unending",
]  # fmt: skip
