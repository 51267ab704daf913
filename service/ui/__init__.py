"""The web app: a Streamlit client of the HTTP API that shares no code with the service."""
