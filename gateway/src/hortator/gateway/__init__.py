"""The gateway: takes prompts, holds each request until its last token, and streams tokens back."""
