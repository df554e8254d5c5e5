/** Whom a guest asks for names: banger, which knows the other VMs too, unless the configuration says otherwise. */
import type { Config } from '../../config/schema.ts';
import { gatewayOf, type Subnet } from '../../core/addresses.ts';
import { hostNameservers } from '../../network/resolvers.ts';
import type { Seed } from '../../storage/seed-drive.ts';

export async function guestResolver(
  config: Pick<Config, 'network' | 'dns'>,
  pool: Subnet,
): Promise<Pick<Seed, 'nameservers' | 'searchDomain'>> {
  const { nameservers } = config.network;
  // other servers know nothing of the zone: short names would be asked for there in vain
  if (nameservers.length > 0) return { nameservers, searchDomain: '' };
  if (!config.dns.enabled) return { nameservers: await hostNameservers(), searchDomain: '' };
  return { nameservers: [gatewayOf(pool)], searchDomain: config.dns.zone };
}
