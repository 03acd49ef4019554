// The search runs in a worker, which browsers do not load from the disk (file:). There, a hidden
// frame takes its place, so that site/index.html can be searched without a server.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      addEventListener("message", (event) => {
        if (event.source === this.inner)
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      const script = (text, attributes = "") => `<script${attributes}>${text}</` + "script>";
      this.ready = new Promise((done) => frame.addEventListener("load", done, { once: true }));
      this.inner.document.open();
      this.inner.document.write(
        script("postMessage = (data) => parent.postMessage(data, '*')") +
          script("", ` src="${url}"`),
      );
      this.inner.document.close();
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {}
  };
}
