/* Classify pictures with model.wasm, in a browser or in Node:
 *
 *     import { open } from "./model.mjs";
 *     const model = await open(await (await fetch("model.wasm")).arrayBuffer());
 *     const logits = model.run(pixels);     // bytes, row by row, not normalised: side × side × channels
 *     model.labels[0]                       // the name of the first logit's class
 *
 * The module allocates nothing: its memory grows here, once, by what the network needs (model.h: MODEL_BYTES).
 */
export async function open(bytes) {
  const { instance } = await WebAssembly.instantiate(bytes);
  const c = instance.exports;
  const number = (address) => new DataView(c.memory.buffer).getUint32(address, true);
  const text = (address) => {
    const rest = new Uint8Array(c.memory.buffer, address);
    return new TextDecoder().decode(rest.subarray(0, rest.indexOf(0)));
  };
  const [side, channels, classes] = [c.model_side, c.model_channels, c.model_classes].map((at) => number(at.value));
  const labels = Array.from({ length: classes }, (_, i) => text(number(c.model_labels.value + 4 * i)));

  const size = side * side * channels;
  const logits = Math.ceil(c.__heap_base.value / 64) * 64;
  const pixels = logits + 4 * classes;
  const memory = pixels + size;
  const missing = memory + c.model_bytes(1) - c.memory.buffer.byteLength;
  if (missing > 0) c.memory.grow(Math.ceil(missing / 65536));
  const code = c.model_open(memory, c.model_bytes(1), 1);
  if (code) throw new Error(text(c.model_error(code)));

  const run = (picture) => {
    if (picture.length !== size) throw new RangeError(`a picture has ${size} bytes, not ${picture.length}`);
    new Uint8Array(c.memory.buffer, pixels, size).set(picture);
    c.model_run(memory, pixels, logits);
    return new Float32Array(c.memory.buffer, logits, classes).slice();
  };
  return { side, channels, classes, labels, path: text(c.model_path()), run };
}
