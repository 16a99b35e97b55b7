// One tab at a time works on a project: the tab opened last, or the one where "go on here" was pressed last. So no
// pair is shown twice, and a tab that crashed locks nobody out.

export class Tabs {
  #channel;
  #id = Math.random().toString(36).slice(2);

  /** @param {string} topic of annotator and project @param {() => void} onTaken when another tab goes on */
  constructor(topic, onTaken) {
    this.#channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel(`pixeval|${topic}`);
    if (this.#channel)
      this.#channel.onmessage = ({ data }) => {
        if (data !== this.#id) onTaken();
      };
  }

  /** This tab goes on; the others stop. */
  claim() {
    this.#channel?.postMessage(this.#id);
  }

  close() {
    this.#channel?.close();
  }
}
