"""Adapters to laboratory systems: webhook, FHIR server, MLLP, SENAITE.

```
 RecordedResult ──► message ──► Adapter.send(key, message) ──► Outcome
                                   │
                    webhook · FHIR transaction · HL7 over MLLP · SENAITE's JSON API
```
An adapter makes one attempt and says what came of it; when to try again is `service.jobs`'.
"""
