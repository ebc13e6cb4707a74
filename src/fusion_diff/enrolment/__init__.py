"""Enrolment: references encoded and learned from, what is kept of them, and its files."""

from fusion_diff.enrolment.enrolment import Enrolment

__all__ = ["Enrolment"]
