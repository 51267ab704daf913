"""Records: results, their versions, the audit trail, idempotency keys and API keys.

```
 routes ──► Recorder ──► one writer thread ──► Transaction ──► results, audit ... ──► database
               │           (many writes a commit)
               └──► reader threads ──► Connection ─────────────────────────────────►
```
Nothing here knows of HTTP, images or models; everything comes in as plain values.
"""
