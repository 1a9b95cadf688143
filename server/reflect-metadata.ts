// Owns: the three calls of the `Reflect` metadata proposal that the injector inside @peculiar/x509 asks for when it loads; without them its
// import throws. No decorator of ours exists; nothing else may call these.
// Invariants: an implementation that is already there is left alone; metadata never keeps its target alive.

type Metadata = Map<unknown, unknown>;

interface MetadataReflect {
  defineMetadata?: (key: unknown, value: unknown, target: object) => void;
  getOwnMetadata?: (key: unknown, target: object) => unknown;
  getMetadata?: (key: unknown, target: object) => unknown;
}

const reflect = Reflect as MetadataReflect;

if (reflect.getMetadata === undefined) {
  const held = new WeakMap<object, Metadata>();
  const own = (key: unknown, target: object): unknown => held.get(target)?.get(key);
  reflect.defineMetadata = (key, value, target) => {
    const metadata = held.get(target) ?? new Map<unknown, unknown>();
    held.set(target, metadata.set(key, value));
  };
  reflect.getOwnMetadata = own;
  reflect.getMetadata = (key, target) => {
    for (let at: object | null = target; at !== null; at = Object.getPrototypeOf(at) as object | null) {
      const value = own(key, at);
      if (value !== undefined) return value;
    }
    return undefined;
  };
}
