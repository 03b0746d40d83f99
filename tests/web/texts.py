"""What a canvas was told to write: its pixels can't be read back as text."""

RECORD_TEXTS = """
    window.texts = [];
    const write = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
      window.texts.push(String(text));
      return write.call(this, text, ...place);
    };
"""
DRAWN_TEXTS = "return window.texts"
