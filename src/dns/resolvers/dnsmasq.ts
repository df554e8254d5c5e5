/** dnsmasq, on its own or run by NetworkManager: one file of `server=/zone/` lines in the directory it reads. */
import { BangerError } from '../../errors.ts';
import { baseName, MARKER, type Recipe, type Route, removals, restartService, type Step, zonesOf } from './plan.ts';

const USUAL_DIR = '/etc/dnsmasq.d';
const NETWORKMANAGER_DIR = '/etc/NetworkManager/dnsmasq.d';

export const dnsmasq: Recipe = {
  plan(route, host) {
    if (host.configDir === undefined) {
      throw new BangerError('host_unprepared', 'dnsmasq is not told to read any directory of configuration files.', {
        hint: `Add the line conf-dir=${USUAL_DIR}/,*.conf to /etc/dnsmasq.conf, then run: banger dns setup`,
      });
    }
    const path = fileIn(host.configDir, route);
    return {
      summary: `dnsmasq will ask bangerd for names below ${route.zone}.`,
      steps: [
        { do: 'write', path, content: renderServers(route) },
        { do: 'run', argv: ['dnsmasq', '--test', `--conf-file=${path}`] },
        // dnsmasq reads `server` lines at start only
        restartService(host, 'dnsmasq'),
      ],
    };
  },
  ownedPaths(route, host) {
    const configured = host.kind === 'dnsmasq' ? host.configDir : undefined;
    return [...new Set([USUAL_DIR, configured ?? USUAL_DIR])].map((dir) => fileIn(dir, route));
  },
  undo: (_route, host, paths) => [...removals(paths), restartService(host, 'dnsmasq')],
};

export const networkManagerDnsmasq: Recipe = {
  plan: (route) => ({
    summary: `The dnsmasq of NetworkManager will ask bangerd for names below ${route.zone}.`,
    steps: [{ do: 'write', path: fileIn(NETWORKMANAGER_DIR, route), content: renderServers(route) }, reloadDns()],
  }),
  ownedPaths: (route) => [fileIn(NETWORKMANAGER_DIR, route)],
  undo: (_route, _host, paths) => [...removals(paths), reloadDns()],
};

/** Restarts NetworkManager's dnsmasq and leaves connections alone. */
function reloadDns(): Step {
  return { do: 'run', argv: ['nmcli', 'general', 'reload', 'dns-full'] };
}

function renderServers(route: Route): string {
  const servers = zonesOf(route).map((zone) => `server=/${zone}/${route.address}#${route.port}`);
  // answers with private addresses pass also where stop-dns-rebind is set
  return [MARKER, ...servers, `rebind-domain-ok=/${route.zone}/`, ''].join('\n');
}

function fileIn(directory: string, route: Route): string {
  return `${directory}/${baseName(route)}.conf`;
}
