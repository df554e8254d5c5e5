/** The reverse side of a zone: PTR records of the addresses of the pools. */
import type { Apex, ZoneNode } from './nodes.ts';
import { createNode } from './nodes.ts';
import { reverseName } from './reverse.ts';
import { nameKey, nameToWire, wireKey } from './wire.ts';

export interface Pointers {
  /** Points an address to a name; an address outside the pools has no place to do so and is left out. */
  add(address: string, name: string): void;
  /** Removes the pointer, unless the address has gone to another name in the meantime. */
  remove(address: string, name: string): void;
  /** Address and name of every pointer. */
  entries(): Iterable<[string, string]>;
  readonly size: number;
  /** What is at a query's name, or undefined outside the reverse zones; see `Zone.find`. */
  find(packet: Buffer, offsets: Uint16Array, labels: number, end: number): ZoneNode | undefined;
}

/** Where an address sits in its reverse zone. */
interface ReversePath {
  apex: Apex;
  key: string;
  /** keys of the names between it and the zone's top */
  between: string[];
}

export function createPointers(apexes: readonly Apex[], ttlSeconds: number): Pointers {
  const tops = new Map(apexes.map((apex) => [keyOf(apex.name), apex]));
  const owners = new Map<string, string>();
  /** by key of the full name; names that only have something below them are here too */
  const nodes = new Map<string, ZoneNode>();
  /** how many pointers lie below a name, by key */
  const below = new Map<string, number>();

  function pathOf(address: string): ReversePath | undefined {
    const keys = keysUpwards(keyOf(reverseName(address)));
    const top = keys.findIndex((key) => tops.has(key));
    const apex = tops.get(keys[top] ?? '');
    const key = keys[0];
    return apex === undefined || key === undefined ? undefined : { key, between: keys.slice(1, top), apex };
  }

  function countBelow({ between, apex }: ReversePath, change: number): void {
    for (const key of between) {
      const count = (below.get(key) ?? 0) + change;
      if (count > 0) {
        below.set(key, count);
        nodes.set(key, apex.empty);
      } else {
        below.delete(key);
        nodes.delete(key);
      }
    }
  }

  return {
    add(address, name) {
      const path = pathOf(address);
      if (path === undefined) return;
      if (!owners.has(address)) countBelow(path, 1);
      owners.set(address, name);
      const pointer = createNode(path.apex, [{ type: 'PTR', ttl: ttlSeconds, data: name }]);
      nodes.set(path.key, tops.has(path.key) ? joined(pointer, path.apex.node) : pointer);
    },
    remove(address, name) {
      const path = pathOf(address);
      if (path === undefined || owners.get(address) !== name) return;
      owners.delete(address);
      nodes.delete(path.key);
      countBelow(path, -1);
    },
    entries: () => owners.entries(),
    get size() {
      return owners.size;
    },
    find(packet, offsets, labels, end) {
      for (let label = 0; label < labels; label++) {
        const key = nameKey(packet, offsets[label] ?? end, end);
        const node = label === 0 ? nodes.get(key) : undefined;
        if (node !== undefined) return node;
        const apex = tops.get(key);
        if (apex !== undefined) return label === 0 ? apex.node : apex.missing;
      }
      return undefined;
    },
  };
}

/** A zone so small that its top is the address itself has both. */
function joined(pointer: ZoneNode, top: ZoneNode): ZoneNode {
  return { ...pointer, types: [...pointer.types, ...top.types], answers: [...pointer.answers, ...top.answers] };
}

/** The key of a name and those of all names above it but the root: a wire name ends with the names above it. */
function keysUpwards(key: string): string[] {
  const keys: string[] = [];
  for (let at = 0; key.charCodeAt(at) !== 0; at += key.charCodeAt(at) + 1) keys.push(key.slice(at));
  return keys;
}

function keyOf(name: string): string {
  return wireKey(nameToWire(name));
}
