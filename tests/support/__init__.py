"""What several tests share: tiny models, sounds, and references written from the papers.

from support import families, parts
from support.references import attention
"""
