"""Enrolment: encoding references, learning from them, and storing the result."""

from fusion_diff.enrolment.enrolment import Enrolment

__all__ = ["Enrolment"]
