// Images, loaded and decoded ahead, so that showing a pair is only putting two elements in place.

const KEPT = 10; // the pair shown, two ahead, and two back for undo

export class Pictures {
  #server;
  #kept = new Map(); // "side/key" -> {element, settled, fine}; in order of use

  constructor(server) {
    this.#server = server;
  }

  /**
   * The image for one side; begins to load it when it is not here yet.
   * @returns {{element: HTMLImageElement, settled: Promise<void>, fine: boolean|null}} `fine` is null while loading
   */
  load(side, key) {
    // Of its own for each side: a pair may show the same image twice, and an element can be in one place only.
    const name = `${side}/${key}`;
    let picture = this.#kept.get(name);
    if (!picture || picture.fine === false) {
      const element = new Image();
      element.draggable = false;
      element.alt = "";
      picture = { element, fine: null };
      element.src = this.#server.image(key);
      const done = (fine) => {
        picture.fine = fine;
      };
      // Settles either way: a pair with a broken image is shown, to be skipped.
      picture.settled = element.decode().then(
        () => done(true),
        () => done(false),
      );
    }
    this.#kept.delete(name);
    this.#kept.set(name, picture);
    return picture;
  }

  /** Loads the pairs of these items ahead and lets go of the oldest others. */
  prefetch(items) {
    for (const item of items) for (const side of ["left", "right"]) this.load(side, item[side].key);
    for (const name of [...this.#kept.keys()].slice(0, Math.max(0, this.#kept.size - KEPT))) this.#kept.delete(name);
  }
}
