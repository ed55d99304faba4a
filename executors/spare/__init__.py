"""Offline work in the spare capacity of servers that belong to online users: watched, learnt and governed beside each server."""
