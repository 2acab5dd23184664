"""Promised against realised: does a statistical promise hold where it is made, and does it say where it is not?"""
