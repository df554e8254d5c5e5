/** What somebody gave a VM for its first boot: data for cloud-init, or a script where there is none. */

export interface UserData {
  /** who takes it up in the guest */
  by: 'cloud-init' | 'script';
  userData: string;
  /** undefined for what is made of the VM itself */
  metaData?: string | undefined;
}

export interface UserDataState {
  by: UserData['by'];
  state: 'running' | 'done' | 'failed';
  /** what went wrong, as the guest says */
  detail: string;
}

/** Read by everybody who knows NoCloud; see "NoCloud" in the documentation of cloud-init. */
const SEED = '/var/lib/cloud/seed/nocloud';
/** Network, host keys and root's login are banger's. */
const SETTINGS = `# Made by banger at each start of a VM with --user-data.
datasource_list: [NoCloud, None]
network: {config: disabled}
ssh_deletekeys: false
disable_root: false
`;

const MAX_DETAIL = 500;

/** Files for the guest, by absolute path; nobody but root reads them. */
export function userDataFiles(data: UserData, vm: { id: string; name: string }): Record<string, string> {
  if (data.by === 'script') return {};
  const metaData = data.metaData ?? `instance-id: banger-${vm.id}\nlocal-hostname: ${vm.name}\n`;
  return {
    [`${SEED}/user-data`]: data.userData,
    [`${SEED}/meta-data`]: metaData,
    '/etc/cloud/cloud.cfg.d/99-banger.cfg': SETTINGS,
  };
}

/** Run in the guest to learn how far it is. */
export function userDataCommand(by: UserData['by']): string {
  return by === 'script'
    ? 'cat /var/lib/banger/user-data.status 2> /dev/null'
    : 'cat /run/cloud-init/result.json 2> /dev/null';
}

/** By what that command said: nothing as long as it is under way. */
export function parseUserDataState(by: UserData['by'], text: string): UserDataState {
  if (text.trim() === '') return { by, state: 'running', detail: '' };
  if (by === 'script') {
    const [, status] = /^status=(\d{1,3})\s*$/.exec(text.trim()) ?? [];
    if (status === '0') return { by, state: 'done', detail: '' };
    return { by, state: 'failed', detail: status === undefined ? 'it left no status' : `status ${status}` };
  }
  try {
    const { v1 } = JSON.parse(text);
    const errors: unknown = v1?.errors;
    const list = Array.isArray(errors) ? errors.map(String) : ['its result cannot be read'];
    return { by, state: list.length === 0 ? 'done' : 'failed', detail: list.join('; ').slice(0, MAX_DETAIL) };
  } catch {
    return { by, state: 'failed', detail: 'its result cannot be read' };
  }
}
