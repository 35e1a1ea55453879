"""The order desk: what a project does with django_pgnotify, in one small app."""
