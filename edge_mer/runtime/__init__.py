"""Joins the rooms: sessions, proofs, builds."""
