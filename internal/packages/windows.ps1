# Windows Update, through its COM interface. What to do and with what comes by the
# environment, as JSON; the answer is JSON on standard output.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
[Console]::OutputEncoding = [System.Text.Encoding]::UTF8
$session = New-Object -ComObject Microsoft.Update.Session
$session.ClientApplicationID = 'almanac'
$searcher = $session.CreateUpdateSearcher()

function Describe($u) {
    [ordered]@{
        id             = [string]$u.Identity.UpdateID
        revision       = [string]$u.Identity.RevisionNumber
        title          = [string]$u.Title
        kb             = @($u.KBArticleIDs | ForEach-Object { [string]$_ })
        severity       = [string]$u.MsrcSeverity
        categories     = @($u.Categories | ForEach-Object { [string]$_.Name })
        bulletins      = @($u.SecurityBulletinIDs | ForEach-Object { [string]$_ })
        cves           = @($u.CveIDs | ForEach-Object { [string]$_ })
        published      = $u.LastDeploymentChangeTime.ToUniversalTime().ToString('yyyy-MM-ddTHH:mm:ssZ')
        reboot         = [bool]$u.RebootRequired
    }
}

function Chosen($criteria) {
    $wanted = @($env:ALMANAC_UPDATES | ConvertFrom-Json)
    $chosen = New-Object -ComObject Microsoft.Update.UpdateColl
    foreach ($u in $searcher.Search($criteria).Updates) {
        foreach ($kb in $u.KBArticleIDs) {
            if ($wanted -contains "KB$kb") {
                if (-not $u.EulaAccepted) { $u.AcceptEula() }
                [void]$chosen.Add($u)
                break
            }
        }
    }
    return , $chosen
}

$answer = [ordered]@{}
switch ($env:ALMANAC_DO) {
    'look' {
        $answer.installed = @($searcher.Search("IsInstalled=1 and Type='Software'").Updates | ForEach-Object { Describe $_ })
        if ($env:ALMANAC_OFFERS -eq 'yes') {
            $answer.offered = @($searcher.Search("IsInstalled=0 and Type='Software' and IsHidden=0").Updates | ForEach-Object { Describe $_ })
        }
    }
    'install' {
        $chosen = Chosen "IsInstalled=0 and Type='Software'"
        if ($chosen.Count -gt 0) {
            $downloader = $session.CreateUpdateDownloader()
            $downloader.Updates = $chosen
            if ($downloader.Download().ResultCode -notin 2, 3) { throw 'an update could not be downloaded' }
            $installer = $session.CreateUpdateInstaller()
            $installer.Updates = $chosen
            $result = $installer.Install()
            $answer.result = [int]$result.ResultCode
            if ($result.ResultCode -ne 2) { [Console]::Error.WriteLine("Error: an update was not installed (result $($result.ResultCode))"); exit 1 }
        }
    }
    'remove' {
        $chosen = Chosen "IsInstalled=1 and Type='Software' and IsUninstallable=1"
        if ($chosen.Count -gt 0) {
            $installer = $session.CreateUpdateInstaller()
            $installer.Updates = $chosen
            $result = $installer.Uninstall()
            $answer.result = [int]$result.ResultCode
            if ($result.ResultCode -ne 2) { [Console]::Error.WriteLine("Error: an update was not removed (result $($result.ResultCode))"); exit 1 }
        }
    }
}
$answer.version = [Environment]::OSVersion.Version.ToString()
$answer.reboot = [bool](New-Object -ComObject Microsoft.Update.SystemInfo).RebootRequired
$answer | ConvertTo-Json -Depth 5 -Compress
