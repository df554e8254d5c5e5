/** The metadata store behind `/mmds`, and how the guest may ask for it. */
import type { ActionArguments } from '../../api/actions.ts';
import { Fault } from '../../fault.ts';
import { JsonFloat, sortedJson } from '../../json/number-text.ts';

const CONFIG_PREFIX = 'MMMDS config error';
const DEFAULT_ADDRESS = '169.254.169.254';

export type StoredMmdsConfig = ActionArguments['SetMmdsConfiguration'];

export class Mmds {
  /** largest size of the data as JSON text */
  limitBytes: number;
  #data: unknown;
  config: StoredMmdsConfig | null = null;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  /** @throws Fault */
  configure(config: StoredMmdsConfig, interfaceIds: string[]): void {
    if (config.ipv4_address !== null && !isUsableLinkLocal(config.ipv4_address)) {
      throw new Fault(`${CONFIG_PREFIX}: The MMDS IPv4 address is not link local.`, { debug: 'InvalidIpv4Addr' });
    }
    if (config.network_interfaces.length === 0) {
      throw new Fault(
        `${CONFIG_PREFIX}: The list of network interface IDs that allow forwarding MMDS requests is empty.`,
        { debug: 'EmptyNetworkIfaceList' },
      );
    }
    if (!config.network_interfaces.every((id) => interfaceIds.includes(id))) {
      throw new Fault(
        `${CONFIG_PREFIX}: The list of network interface IDs provided contains at least one ID that does not ` +
          'correspond to any existing network interface.',
        { debug: 'InvalidNetworkInterfaceId' },
      );
    }
    this.config = {
      ...config,
      network_interfaces: interfaceIds.filter((id) => config.network_interfaces.includes(id)),
      ipv4_address: config.ipv4_address ?? DEFAULT_ADDRESS,
    };
  }

  /** The interface is gone, and what served the metadata on it. Without any there is no service. */
  forget(interfaceId: string): void {
    if (!this.config) return;
    const left = this.config.network_interfaces.filter((id) => id !== interfaceId);
    this.config = left.length > 0 ? { ...this.config, network_interfaces: left } : null;
  }

  /** After the start the store exists only if it was configured. @throws Fault */
  requireConfigured(): void {
    if (!this.config) throw notInitialized();
  }

  /** IPv4 address of the service in the guest's network */
  get address(): string {
    return this.config?.ipv4_address ?? DEFAULT_ADDRESS;
  }

  get(): unknown {
    return this.#data ?? {};
  }

  /**
   * What a JSON pointer (RFC 6901) leads to; undefined when nothing is there. An empty store is `null` to the
   * guest, although the API says `{}`.
   */
  find(pointer: string): unknown {
    let value: unknown = this.#data ?? null;
    for (const token of pointer.split('/').slice(1)) {
      const key = token.replaceAll('~1', '/').replaceAll('~0', '~');
      if (Array.isArray(value)) value = /^(0|[1-9]\d*)$/.test(key) ? value[Number(key)] : undefined;
      else if (isObject(value)) value = Object.hasOwn(value, key) ? value[key] : undefined;
      else return undefined;
    }
    return value;
  }

  /** @throws Fault with status 413 when the data is too large */
  put(data: unknown): void {
    this.#checkSize(data);
    this.#data = data;
  }

  /** Applies a merge patch (RFC 7396). @throws Fault */
  patch(patch: unknown): void {
    if (this.#data === undefined) throw notInitialized();
    this.put(merged(this.#data, patch));
  }

  #checkSize(data: unknown): void {
    if (Buffer.byteLength(sortedJson(data)) <= this.limitBytes) return;
    throw new Fault("MMDS limit exceeded error: The MMDS patch request doesn't fit.", {
      status: 413,
      debug: 'DataStoreLimitExceeded',
    });
  }
}

function notInitialized(): Fault {
  return new Fault('MMDS error: The MMDS data store is not initialized.', { debug: 'NotInitialized' });
}

/** RFC 3927 leaves the first and the last 256 addresses of 169.254/16 out. */
function isUsableLinkLocal(address: string): boolean {
  const [a, b, c] = address.split('.').map(Number);
  return a === 169 && b === 254 && c !== undefined && c >= 1 && c <= 254;
}

function merged(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const result = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) result.delete(key);
    else result.set(key, merged(result.get(key), value));
  }
  return Object.fromEntries(result);
}

/** A JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof JsonFloat);
}
